//! What arrives: frames, header blocks, messages.

use crate::connection::{Block, Call, Connection, Event};
use crate::frame::{
    self, HEAD, Head, MAX_PAYLOAD, MAX_WINDOW, PREFACE, Reason, Violation, flag, kind, setting,
};
use crate::grpc::{Payload, Refusal, code};
use crate::request::{Fault, Request};
use crate::stream::Stream;

/// CONTINUATION frames of one header block.
const CONTINUATIONS: u32 = 64;

impl Connection {
    /// Takes bytes that arrived at `now`, in seconds of a clock that does not go back.
    pub fn feed(&mut self, data: &[u8], now: f64) -> Vec<Event> {
        if !self.closed {
            self.set_time(now);
            if self.rest.is_empty() {
                let used = self.parse(data);
                self.rest.extend_from_slice(&data[used..]);
            } else {
                let mut rest = std::mem::take(&mut self.rest);
                rest.extend_from_slice(data);
                let used = self.parse(&rest);
                rest.drain(..used);
                self.rest = rest;
            }
        }
        std::mem::take(&mut self.events)
    }

    /// A message of `length` bytes was taken by its handler: the peer may send more.
    pub fn consumed(&mut self, id: u32, length: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.unread = stream.unread.saturating_sub(length);
        self.grant(id);
    }

    /// Handles all complete frames; how many bytes they had.
    fn parse(&mut self, data: &[u8]) -> usize {
        let mut input = data;
        if !self.greeted {
            let known = input.len().min(PREFACE.len());
            if input[..known] != PREFACE[..known] {
                self.fail(Violation::new(
                    Reason::Protocol,
                    "not HTTP/2 with prior knowledge",
                ));
                return data.len();
            }
            if known < PREFACE.len() {
                return 0;
            }
            self.greeted = true;
            input = &input[PREFACE.len()..];
        }
        while let Some((head, rest)) = input.split_first_chunk::<HEAD>() {
            let head = Head::parse(head);
            if head.length > MAX_PAYLOAD {
                self.fail(Violation::new(
                    Reason::FrameSize,
                    "a frame larger than allowed",
                ));
                return data.len();
            }
            let Some((payload, rest)) = rest.split_at_checked(head.length) else {
                break;
            };
            if let Err(violation) = self.frame(&head, payload) {
                self.fail(violation);
                return data.len();
            }
            input = rest;
        }
        data.len() - input.len()
    }

    fn frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if !self.configured && head.kind != kind::SETTINGS {
            return Err(Violation::new(
                Reason::Protocol,
                "the first frame is not SETTINGS",
            ));
        }
        if self.block.is_some() && head.kind != kind::CONTINUATION {
            return Err(Violation::new(
                Reason::Protocol,
                "a frame inside of a header block",
            ));
        }
        match head.kind {
            kind::DATA => self.data(head, payload)?,
            kind::HEADERS => self.headers(head, payload)?,
            kind::CONTINUATION => self.continuation(head, payload)?,
            kind::RST_STREAM => self.rst_stream(head, payload)?,
            kind::SETTINGS => self.settings(head, payload)?,
            kind::PING => self.ping(head, payload)?,
            kind::WINDOW_UPDATE => self.window_update(head, payload)?,
            kind::PUSH_PROMISE => {
                return Err(Violation::new(Reason::Protocol, "a push of a client"));
            }
            kind::GOAWAY => {}
            // PRIORITY says nothing to us; what is unknown is to be ignored.
            _ => self.useless()?,
        }
        if self.control.len() > self.limits.control {
            return Err(Violation::new(
                Reason::EnhanceYourCalm,
                "acknowledgements are not read",
            ));
        }
        Ok(())
    }

    // Connection

    fn settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation::new(Reason::Protocol, "SETTINGS of a stream"));
        }
        if head.has(flag::ACK) || !payload.len().is_multiple_of(6) {
            return if head.has(flag::ACK) && payload.is_empty() {
                self.useless()
            } else {
                Err(Violation::new(
                    Reason::FrameSize,
                    "SETTINGS of a wrong length",
                ))
            };
        }
        if self.configured {
            self.useless()?;
        }
        self.configured = true;
        for entry in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            match name {
                setting::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
                setting::MAX_FRAME_SIZE => {
                    if !(16_384..=16_777_215).contains(&value) {
                        return Err(Violation::new(Reason::Protocol, "SETTINGS_MAX_FRAME_SIZE"));
                    }
                    // More than this would let one stream hold the others up for little gain.
                    self.max_frame = (value as usize).min(4 * MAX_PAYLOAD);
                }
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Violation::new(Reason::Protocol, "SETTINGS_ENABLE_PUSH"));
                }
                _ => {}
            }
        }
        frame::put_head(&mut self.control, 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    fn resize_windows(&mut self, size: u32) -> Result<(), Violation> {
        let overflow = Violation::new(Reason::FlowControl, "SETTINGS_INITIAL_WINDOW_SIZE");
        if i64::from(size) > MAX_WINDOW {
            return Err(overflow);
        }
        let change = i64::from(size) - self.initial_send_window;
        self.initial_send_window = i64::from(size);
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.send_window += change;
            if stream.send_window > MAX_WINDOW {
                return Err(overflow);
            }
            self.line_up(id);
        }
        Ok(())
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation::new(Reason::Protocol, "PING of a stream"));
        }
        if payload.len() != 8 {
            return Err(Violation::new(Reason::FrameSize, "PING of a wrong length"));
        }
        if head.has(flag::ACK) {
            return self.useless();
        }
        frame::put_head(&mut self.control, payload.len(), kind::PING, flag::ACK, 0);
        self.control.extend_from_slice(payload);
        self.pinged()
    }

    fn window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let payload = payload.try_into();
        let Ok(payload) = payload else {
            return Err(Violation::new(
                Reason::FrameSize,
                "WINDOW_UPDATE of a wrong length",
            ));
        };
        let more = i64::from(frame::number(payload));
        if head.stream == 0 {
            self.send_window += more;
            if more == 0 || self.send_window > MAX_WINDOW {
                return Err(Violation::new(Reason::FlowControl, "WINDOW_UPDATE"));
            }
            self.ready.append(&mut self.starved);
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return self.not_idle(head.stream);
        };
        stream.send_window += more;
        if more == 0 || stream.send_window > MAX_WINDOW {
            self.reset(head.stream, Reason::FlowControl);
        } else {
            self.line_up(head.stream);
        }
        Ok(())
    }

    /// A frame of a stream that we do not know is of one that ended, or a fault.
    fn not_idle(&mut self, id: u32) -> Result<(), Violation> {
        if id == 0 || id.is_multiple_of(2) || id > self.last_stream {
            return Err(Violation::new(
                Reason::Protocol,
                "a frame of a stream that was not opened",
            ));
        }
        self.useless()
    }

    fn rst_stream(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if payload.len() != 4 {
            return Err(Violation::new(
                Reason::FrameSize,
                "RST_STREAM of a wrong length",
            ));
        }
        if !self.streams.contains_key(&head.stream) {
            return self.not_idle(head.stream);
        }
        self.drop_stream(head.stream);
        self.useless()
    }

    // Header blocks

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream.is_multiple_of(2) {
            return Err(Violation::new(
                Reason::Protocol,
                "HEADERS of a stream that no client opens",
            ));
        }
        let mut bytes = frame::unpadded(head, payload)?;
        if head.has(flag::PRIORITY) {
            bytes = bytes
                .get(5..)
                .ok_or(Violation::new(Reason::FrameSize, "HEADERS too short"))?;
        }
        let ends_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, ends_stream, bytes);
        }
        self.block = Some(Block {
            stream: head.stream,
            ends_stream,
            bytes: bytes.to_vec(),
            frames: 0,
        });
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let Some(mut block) = self
            .block
            .take()
            .filter(|block| block.stream == head.stream)
        else {
            return Err(Violation::new(
                Reason::Protocol,
                "CONTINUATION of no header block",
            ));
        };
        block.frames += 1;
        // Encoded, a list is hardly longer than what it says.
        if block.frames > CONTINUATIONS
            || block.bytes.len() + payload.len() > 2 * self.limits.header_list
        {
            return Err(Violation::new(
                Reason::EnhanceYourCalm,
                "a header block without end",
            ));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(block.stream, block.ends_stream, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    fn block(&mut self, id: u32, ends_stream: bool, bytes: &[u8]) -> Result<(), Violation> {
        let mut request = Request::default();
        let limit = self.limits.header_list;
        // Decoded in any case: the table has to go on as the peer's does.
        let whole = self
            .decoder
            .decode(bytes, limit, |name, value| request.field(name, value))
            .map_err(|_| Violation::new(Reason::Compression, "a header block cannot be decoded"))?;
        if id <= self.last_stream {
            return self.trailers(id, ends_stream);
        }
        self.last_stream = id;
        if self.draining
            || self.streams.len() + self.undone >= self.limits.calls
            || self.queued > self.limits.queued
        {
            frame::put_number(
                &mut self.control,
                kind::RST_STREAM,
                id,
                Reason::RefusedStream as u32,
            );
            return self.useless();
        }
        self.open(id, request, whole, ends_stream)
    }

    /// Trailers of a request say nothing in gRPC but that it ends.
    fn trailers(&mut self, id: u32, ends_stream: bool) -> Result<(), Violation> {
        let Some(stream) = self.streams.get(&id) else {
            return self.not_idle(id);
        };
        if !stream.remote_open {
            self.reset(id, Reason::StreamClosed);
        } else if !ends_stream {
            self.reset(id, Reason::Protocol);
        } else {
            self.half_close(id);
        }
        Ok(())
    }

    fn open(
        &mut self,
        id: u32,
        request: Request,
        whole: bool,
        ends: bool,
    ) -> Result<(), Violation> {
        let window = i64::from(self.limits.stream_window);
        let mut stream = Stream::new(window, self.initial_send_window);
        stream.compresses = request.compresses();
        stream.remote_open = !ends;
        let fault = request.fault();
        let found = self.routes.find(&request.path);
        if let (None, true, Some((method, many))) = (&fault, whole, found) {
            stream.many_requests = many;
            let (metadata, timeout) = (request.metadata, request.timeout);
            let call = Call {
                stream: id,
                method,
                metadata,
                timeout,
                message: None,
            };
            if many {
                stream.told = true;
                self.events.push(Event::Call(call));
            } else {
                stream.waiting = Some(Box::new(call));
            }
            self.streams.insert(id, stream);
            if ends {
                self.half_close(id);
            }
            return Ok(());
        }
        self.streams.insert(id, stream);
        match fault {
            Some(Fault::Malformed) => self.reset(id, Reason::Protocol),
            Some(Fault::NotGrpc(status, text)) => self.finish_as_http(id, status, text),
            Some(Fault::Refused(refusal)) => self.refuse(id, refusal),
            None if !whole => {
                let text = "header list size to receive violates the maximum size (server)";
                self.refuse(id, Refusal::new(code::INTERNAL, text));
            }
            None => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.told = true;
                    stream.deaf = true;
                }
                let path = String::from_utf8_lossy(&request.path).into_owned();
                self.events.push(Event::Unknown { stream: id, path });
            }
        }
        Ok(())
    }

    // Messages

    fn data(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let size = payload.len() as i64;
        self.receive_window -= size;
        if self.receive_window < 0 {
            return Err(Violation::new(
                Reason::FlowControl,
                "more data than granted",
            ));
        }
        let full = i64::from(self.limits.connection_window);
        if self.receive_window < full / 2 {
            let more = (full - self.receive_window) as u32;
            frame::put_number(&mut self.control, kind::WINDOW_UPDATE, 0, more);
            self.receive_window = full;
        }
        let mut bytes = frame::unpadded(head, payload)?;
        if bytes.is_empty() && !head.has(flag::END_STREAM) {
            self.useless()?;
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return self.not_idle(head.stream);
        };
        if !stream.remote_open {
            self.reset(head.stream, Reason::StreamClosed);
            return Ok(());
        }
        stream.receive_window -= size;
        if stream.receive_window < 0 {
            self.reset(head.stream, Reason::FlowControl);
            return Ok(());
        }
        if let Err(refusal) = self.messages(head.stream, &mut bytes) {
            self.refuse(head.stream, refusal);
        } else if head.has(flag::END_STREAM) {
            self.half_close(head.stream);
        } else {
            self.grant(head.stream);
        }
        Ok(())
    }

    fn messages(&mut self, id: u32, bytes: &mut &[u8]) -> Result<(), Refusal> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.finished || stream.deaf {
            return Ok(());
        }
        loop {
            let before = stream.deframer.partial();
            let message = stream.deframer.next(bytes, self.limits.max_receive)?;
            self.partial = self.partial - before + stream.deframer.partial();
            let Some(message) = message else { break };
            accept(stream, id, message, &mut self.events)?;
        }
        if self.partial > self.limits.partial {
            let text = "too many messages at once that are not complete";
            return Err(Refusal::new(code::RESOURCE_EXHAUSTED, text));
        }
        Ok(())
    }

    /// The peer sends nothing more on this stream.
    fn half_close(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.remote_open = false;
        if stream.finished || stream.deaf {
            return;
        }
        if !stream.deframer.is_between_messages() {
            self.refuse(
                id,
                Refusal::new(code::INTERNAL, "unexpected EOF in a request message"),
            );
        } else if let Some(mut call) = stream.waiting.take() {
            if call.message.is_none() {
                self.refuse(
                    id,
                    Refusal::new(code::INTERNAL, "the request has no message"),
                );
                return;
            }
            stream.told = true;
            call.stream = id;
            self.events.push(Event::Call(*call));
        } else if stream.many_requests {
            self.events.push(Event::HalfClosed { stream: id });
        }
    }

    /// Lets the peer send as much as the handler may have before it.
    ///
    /// Parts of a message are no reason to hold back: it could then never become complete.
    fn grant(&mut self, id: u32) {
        let full = i64::from(self.limits.stream_window);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let more = full - stream.unread as i64 - stream.receive_window;
        if stream.remote_open && more > full / 2 {
            stream.receive_window += more;
            frame::put_number(&mut self.control, kind::WINDOW_UPDATE, id, more as u32);
        }
    }
}

fn accept(
    stream: &mut Stream,
    id: u32,
    message: Payload,
    events: &mut Vec<Event>,
) -> Result<(), Refusal> {
    if message.compressed && !stream.compresses {
        let text = "grpc: compressed flag set with identity or empty encoding";
        return Err(Refusal::new(code::INTERNAL, text));
    }
    if stream.many_requests {
        stream.unread += message.bytes.len();
        events.push(Event::Message {
            stream: id,
            message,
        });
        return Ok(());
    }
    match &mut stream.waiting {
        Some(call) if call.message.is_none() => call.message = Some(message),
        _ => {
            return Err(Refusal::new(
                code::INTERNAL,
                "the request has more than one message",
            ));
        }
    }
    Ok(())
}
