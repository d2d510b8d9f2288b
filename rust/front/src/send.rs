//! What goes out: answers through the peer's windows, in turns.

use crate::connection::{Connection, Event};
use crate::frame::{self, HEAD, Reason, flag, kind};
use crate::grpc::{self, Refusal};
use crate::hpack;
use crate::stream::Chunk;

type Fields<'a> = [(&'a str, &'a str)];

impl Connection {
    /// Finishes a call that has one message, with the status OK.
    pub fn respond(
        &mut self,
        id: u32,
        initial: &Fields<'_>,
        message: &[u8],
        trailing: &Fields<'_>,
    ) {
        self.send(id, initial, message);
        self.finish(id, initial, 0, "", trailing);
    }

    /// Queues a message; `initial` goes before the first one. True when the handler should wait for
    /// [`Event::Writable`] before the next.
    pub fn send(&mut self, id: u32, initial: &Fields<'_>, message: &[u8]) -> bool {
        let limit = self.limits.stream_queue;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.finished) else {
            return false;
        };
        if !stream.head_sent {
            stream.head_sent = true;
            stream.queue.push_back(Chunk::Head(response_head(initial)));
        }
        let mut bytes = Vec::with_capacity(message.len() + 5);
        bytes.extend_from_slice(&grpc::prefix(message.len()));
        bytes.extend_from_slice(message);
        stream.queued += bytes.len();
        self.queued += bytes.len();
        stream.queue.push_back(Chunk::Data(bytes, 0));
        stream.held = stream.queued > limit;
        let held = stream.held;
        self.line_up(id);
        held
    }

    /// Ends a call, after what was sent before.
    pub fn finish(
        &mut self,
        id: u32,
        initial: &Fields<'_>,
        status: u32,
        message: &str,
        trailing: &Fields<'_>,
    ) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.finished) else {
            return;
        };
        let mut block = Vec::with_capacity(64);
        if !stream.head_sent {
            stream.head_sent = true;
            let head = response_head(initial);
            if status == 0 {
                stream.queue.push_back(Chunk::Head(head));
            } else {
                block = head;
            }
        }
        hpack::encode(b"grpc-status", status.to_string().as_bytes(), &mut block);
        if !message.is_empty() {
            hpack::encode(
                b"grpc-message",
                grpc::percent_encode(message).as_bytes(),
                &mut block,
            );
        }
        for (name, value) in trailing {
            hpack::encode(name.as_bytes(), value.as_bytes(), &mut block);
        }
        stream.queue.push_back(Chunk::Tail(block));
        stream.finished = true;
        self.line_up(id);
    }

    /// Ends a call with a status of ours; a handler that was told of it is told of its end.
    pub(crate) fn refuse(&mut self, id: u32, refusal: Refusal) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.waiting = None;
        if stream.told && !stream.finished {
            stream.told = false;
            self.undone += 1;
            self.events.push(Event::Reset { stream: id });
        }
        self.finish(id, &[], refusal.code, &refusal.message, &[]);
    }

    /// Answers what is no gRPC with a status of HTTP.
    pub(crate) fn finish_as_http(&mut self, id: u32, status: u16, text: &str) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut block = Vec::new();
        hpack::encode(b":status", status.to_string().as_bytes(), &mut block);
        hpack::encode(b"content-type", b"application/grpc", &mut block);
        hpack::encode(
            b"grpc-status",
            grpc::code::INTERNAL.to_string().as_bytes(),
            &mut block,
        );
        hpack::encode(
            b"grpc-message",
            grpc::percent_encode(text).as_bytes(),
            &mut block,
        );
        stream.queue.push_back(Chunk::Tail(block));
        stream.finished = true;
        self.line_up(id);
    }

    /// Bytes to write, about `limit` at most; none when nothing can be sent now. Call it until then,
    /// or until the writer wants no more. Events of streams that are not full any more come with them.
    pub fn output(&mut self, limit: usize) -> (Vec<u8>, Vec<Event>) {
        let mut out = std::mem::take(&mut self.control);
        while out.len() < limit {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            self.write_one(id, &mut out);
        }
        (out, std::mem::take(&mut self.events))
    }

    /// Puts a stream that has something to send into the line of those that can, once.
    pub(crate) fn line_up(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let can = match stream.queue.front() {
            None => false,
            Some(Chunk::Data(..)) => stream.send_window > 0,
            Some(_) => true,
        };
        if can && !stream.in_line {
            stream.in_line = true;
            self.ready.push_back(id);
        }
    }

    /// Writes all headers at the front of a stream's queue and one frame of data, so that streams
    /// take turns.
    fn write_one(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.in_line = false;
        if !self.table_told
            && let Some(Chunk::Head(block) | Chunk::Tail(block)) = stream.queue.front_mut()
        {
            block.insert(0, hpack::NO_TABLE);
            self.table_told = true;
        }
        let mut data_sent = false;
        while let Some(chunk) = stream.queue.front_mut() {
            match chunk {
                Chunk::Head(block) => put_block(out, block, 0, id, self.max_frame),
                Chunk::Tail(block) => {
                    put_block(out, block, flag::END_STREAM, id, self.max_frame);
                    self.pings.forgiven = true;
                    self.end(id, out);
                    return;
                }
                Chunk::Data(bytes, sent) => {
                    let window = stream.send_window.min(self.send_window);
                    let room = usize::try_from(window).unwrap_or(0).min(self.max_frame);
                    let length = room.min(bytes.len() - *sent);
                    if length == 0 || data_sent {
                        break;
                    }
                    frame::put_head(out, length, kind::DATA, 0, id);
                    out.extend_from_slice(&bytes[*sent..*sent + length]);
                    *sent += length;
                    data_sent = true;
                    let whole = *sent == bytes.len();
                    stream.queued -= length;
                    stream.send_window -= length as i64;
                    self.queued -= length;
                    self.send_window -= length as i64;
                    if !whole {
                        break;
                    }
                }
            }
            stream.queue.pop_front();
        }
        self.pings.forgiven = true;
        if stream.held && stream.queued <= self.limits.stream_queue / 2 {
            stream.held = false;
            self.events.push(Event::Writable { stream: id });
        }
        if matches!(stream.queue.front(), Some(Chunk::Data(..)))
            && stream.send_window > 0
            && self.send_window <= 0
        {
            stream.in_line = true;
            self.starved.push_back(id);
        } else {
            self.line_up(id);
        }
    }

    /// The call's last frame is out. A peer that still sends is told that nobody listens.
    fn end(&mut self, id: u32, out: &mut Vec<u8>) {
        if let Some(stream) = self.remove(id)
            && stream.remote_open
        {
            frame::put_number(out, kind::RST_STREAM, id, Reason::NoError as u32);
        }
    }
}

fn response_head(initial: &Fields<'_>) -> Vec<u8> {
    let mut block = Vec::with_capacity(48);
    block.push(hpack::STATUS_OK);
    hpack::encode(b"content-type", b"application/grpc", &mut block);
    for (name, value) in initial {
        hpack::encode(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

/// A header block in as many frames as it needs.
fn put_block(out: &mut Vec<u8>, block: &[u8], flags: u8, id: u32, max: usize) {
    let (mut now, mut rest) = block.split_at(block.len().min(max));
    let mut kind = kind::HEADERS;
    let mut flags = flags;
    loop {
        let last = if rest.is_empty() {
            flag::END_HEADERS
        } else {
            0
        };
        out.reserve(HEAD + now.len());
        frame::put_head(out, now.len(), kind, flags | last, id);
        out.extend_from_slice(now);
        if rest.is_empty() {
            return;
        }
        (now, rest) = rest.split_at(rest.len().min(max));
        kind = kind::CONTINUATION;
        flags = 0;
    }
}
