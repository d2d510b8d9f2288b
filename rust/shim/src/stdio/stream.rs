//! Streams of bytes over ttrpc: what a request names as `ttrpc+unix://SOCKET?streaming_id=ID`.
//!
//! The client opens a stream of that id at this shim first (`service/streaming.rs`), then names it. As
//! with a FIFO, a client may go and open it again: the stream belongs to the process until its copy
//! ends. Bytes are `Data` messages; the receiver of bytes says by `WindowUpdate` how many it takes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use prost::Message;
use prost_types::Any;
use rustix::io::Errno;

use crate::proto::containerd::types::transfer::{Data, WindowUpdate};
use crate::ttrpc::Status;
use crate::ttrpc::server::{Reply, ReplyKey};

/// Bytes of input that may be under way or waiting here.
const WINDOW: usize = 64 << 10;
/// The most one message carries. containerd's CRI reads lines through a buffer of this size, and what
/// of a message does not fit into it is never counted as taken: once 64 KiB have got lost so, it would
/// ask for no more. So no message may be larger than what that buffer has room for.
const READER_BUFFER: usize = 4096;
/// Messages that wait here to be handed to the connection.
const MESSAGES: usize = 16;

/// The streams that clients or processes have, by id.
pub type Table = BTreeMap<String, Stream>;

#[derive(Clone, Default)]
pub struct Stream(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    /// The call that it is, while a client has it open.
    call: Option<Reply>,
    direction: Option<Direction>,
    /// A process had it, and has let it go.
    released: bool,
    pump: Option<u32>,
    out: VecDeque<Any>,

    /// Output: bytes the client still takes.
    window: usize,
    /// Output: how much of the client's buffer is filled by a line without its end.
    column: usize,
    /// Output: the connection has more than it gets rid of.
    stuck: bool,

    incoming: VecDeque<u8>,
    /// Input: bytes the client may send.
    granted: usize,
    /// Input: bytes passed on that the client has not been told of.
    taken: usize,
    /// Input: the client has said that there is no more.
    ended: bool,
    /// Input: there is no more once no client is there.
    closing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Input,
    Output,
}

/// A process's hold of a stream; dropped, the stream ends.
pub struct End(pub Stream);

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.borrow_mut().released = true;
    }
}

/// The stream of a request, for input or for output.
fn take(table: &Table, id: &str, direction: Direction) -> io::Result<End> {
    let Some(stream) = table.get(id) else {
        let text =
            format!("stream {id:?} is not open: it is opened at the shim before it is named");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    };
    let mut state = stream.0.borrow_mut();
    if state.direction.is_some() {
        let text = format!("stream {id:?} is another's already");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    state.direction = Some(direction);
    state.grant();
    drop(state);
    Ok(End(stream.clone()))
}

pub fn take_input(table: &Table, id: &str) -> io::Result<End> {
    take(table, id, Direction::Input)
}

pub fn take_output(table: &Table, id: &str) -> io::Result<End> {
    take(table, id, Direction::Output)
}

impl State {
    /// Lets the client send as much as there is room for.
    fn grant(&mut self) {
        let room = WINDOW - self.incoming.len();
        if self.direction == Some(Direction::Input) && room > self.granted {
            self.out.push_back(update(room - self.granted));
            self.granted = room;
        }
    }
}

fn update(bytes: usize) -> Any {
    let message = WindowUpdate {
        update: i32::try_from(bytes).unwrap_or(i32::MAX),
    };
    any("containerd.types.transfer.WindowUpdate", &message)
}

pub fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: name.into(),
        value: message.encode_to_vec(),
    }
}

impl Stream {
    // The process's side.

    /// Takes a part of `bytes`, if the client takes any.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let state = &mut *self.0.borrow_mut();
        if !state.is_writable() || state.out.len() >= MESSAGES {
            return Err(Errno::AGAIN);
        }
        let room = (READER_BUFFER - state.column).min(state.window);
        let part = &bytes[..bytes.len().min(room)];
        // At the end of a line the client's buffer is empty again.
        let (part, column) = match part.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => (&part[..=end], 0),
            None => (part, (state.column + part.len()) % READER_BUFFER),
        };
        state.column = column;
        state.window -= part.len();
        let data = Data { data: part.into() };
        state
            .out
            .push_back(any("containerd.types.transfer.Data", &data));
        Ok(part.len())
    }

    /// What the client has sent; nothing at the end.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
        let state = &mut *self.0.borrow_mut();
        if state.incoming.is_empty() {
            let over = state.ended || (state.closing && state.call.is_none());
            return if over { Ok(0) } else { Err(Errno::AGAIN) };
        }
        let count = state.incoming.len().min(buffer.capacity() - buffer.len());
        buffer.extend(state.incoming.drain(..count));
        state.taken += count;
        if state.taken >= WINDOW / 2 {
            state.taken = 0;
            state.grant();
        }
        Ok(count)
    }

    /// Bytes that wait to be read.
    pub fn held(&self) -> usize {
        self.0.borrow().incoming.len()
    }

    /// The end of input comes as soon as no client is there.
    pub fn close_input(&self) {
        self.0.borrow_mut().closing = true;
    }

    pub fn is_open(&self) -> bool {
        self.0.borrow().call.is_some()
    }

    pub fn is_writable(&self) -> bool {
        self.0.borrow().is_writable()
    }

    pub fn set_pump(&self, pump: u32) {
        self.0.borrow_mut().pump = Some(pump);
    }

    // The client's side.

    /// A client opens it, for the first time or again.
    pub fn open(&self, call: Reply) {
        let state = &mut *self.0.borrow_mut();
        state.call = Some(call);
        (state.window, state.column, state.stuck) = (0, 0, false);
        (state.granted, state.taken) = (0, 0);
        state.out.clear();
        state.grant();
    }

    /// The client is gone, or the call has ended otherwise; the call, if it has not.
    pub fn leave(&self) -> Option<Reply> {
        let state = &mut *self.0.borrow_mut();
        state.out.clear();
        state.window = 0;
        state.call.take()
    }

    pub fn receive(&self, message: &Any) -> Result<(), Status> {
        let state = &mut *self.0.borrow_mut();
        let broken = |e: prost::DecodeError| Status::invalid_argument(format!("stream: {e}"));
        match message.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.types.transfer.Data" => {
                let data = Data::decode(&*message.value).map_err(broken)?.data;
                if data.len() > state.granted {
                    let text = format!(
                        "stream: {} bytes were sent and {} asked for",
                        data.len(),
                        state.granted
                    );
                    return Err(Status::new(crate::ttrpc::Code::ResourceExhausted, text));
                }
                state.granted -= data.len();
                state.incoming.extend(data);
            }
            "containerd.types.transfer.WindowUpdate" => {
                let more = WindowUpdate::decode(&*message.value)
                    .map_err(broken)?
                    .update;
                let more = usize::try_from(more)
                    .map_err(|_| Status::invalid_argument(format!("stream: window of {more}")))?;
                state.window = state.window.saturating_add(more);
            }
            other => {
                return Err(Status::invalid_argument(format!("stream: message {other}")));
            }
        }
        Ok(())
    }

    /// The client sends no more.
    pub fn end_input(&self) {
        self.0.borrow_mut().ended = true;
    }

    // The shim's side.

    pub fn key(&self) -> Option<ReplyKey> {
        self.0.borrow().call.as_ref().map(Reply::key)
    }

    pub fn pump(&self) -> Option<u32> {
        self.0.borrow().pump
    }

    pub fn next_message(&self) -> Option<Any> {
        self.0.borrow_mut().out.pop_front()
    }

    pub fn set_stuck(&self, stuck: bool) {
        self.0.borrow_mut().stuck = stuck;
    }

    pub fn is_stuck(&self) -> bool {
        self.0.borrow().stuck
    }

    /// Whether no process will use it: it had one, or has neither one nor a client.
    pub fn is_over(&self) -> bool {
        let state = self.0.borrow();
        state.released || (state.direction.is_none() && state.call.is_none())
    }
}

impl State {
    fn is_writable(&self) -> bool {
        self.call.is_some() && self.window > 0 && !self.stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> (Table, End) {
        let table = Table::from([("out".to_owned(), Stream::default())]);
        let end = take_output(&table, "out").unwrap();
        (table, end)
    }

    fn sent(stream: &Stream) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(message) = stream.next_message() {
            all.push(Data::decode(&*message.value).unwrap().data);
        }
        all
    }

    fn asks_for(stream: &Stream, bytes: usize) {
        stream.receive(&update(bytes)).unwrap();
    }

    #[test]
    fn output_waits_for_a_client_that_asks_for_it() {
        let (_table, End(stream)) = &output();
        assert_eq!(stream.write(b"x"), Err(Errno::AGAIN));
        stream.open(Reply::to_nobody());
        assert_eq!(stream.write(b"x"), Err(Errno::AGAIN), "nothing asked for");
        asks_for(stream, 3);
        assert_eq!(stream.write(b"abcd"), Ok(3));
        assert_eq!(stream.write(b"d"), Err(Errno::AGAIN));
        assert_eq!(sent(stream), [b"abc"]);
        // What a client asked for is forgotten with it.
        asks_for(stream, 3);
        stream.leave();
        stream.open(Reply::to_nobody());
        assert_eq!(stream.write(b"d"), Err(Errno::AGAIN));
    }

    /// The reader of containerd's CRI: lines through a buffer; what did not fit is not counted.
    #[test]
    fn every_message_fits_into_the_buffer_of_a_reader_of_lines() {
        let (_table, End(stream)) = &output();
        stream.open(Reply::to_nobody());
        let mut text = Vec::new();
        for (index, length) in [0, 1, 100, 4095, 4096, 4097, 9000, 30_000, 7, 2048, 2049]
            .into_iter()
            .cycle()
            .take(200)
            .enumerate()
        {
            text.extend(std::iter::repeat_n(b'a' + (index % 26) as u8, length));
            text.push(b'\n');
        }
        asks_for(stream, text.len());
        let (mut rest, mut got, mut filled) = (&text[..], Vec::new(), 0);
        // In pieces as a pipe might give them, whose ends are in the middle of lines.
        for piece in [1, 5000, 17, 4096, 333].into_iter().cycle() {
            let mut piece = &rest[..piece.min(rest.len())];
            rest = &rest[piece.len()..];
            while !piece.is_empty() {
                piece = &piece[stream.write(piece).unwrap()..];
                for message in sent(stream) {
                    assert!(message.len() <= READER_BUFFER - filled);
                    filled = match message.iter().rposition(|byte| *byte == b'\n') {
                        Some(end) => message.len() - end - 1,
                        None => (filled + message.len()) % READER_BUFFER,
                    };
                    got.extend(message);
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        assert!(got == text);
    }

    #[test]
    fn input_is_asked_for_as_it_is_taken_and_no_more_is_let_in() {
        let table = Table::from([("in".to_owned(), Stream::default())]);
        let stream = table["in"].clone();
        stream.open(Reply::to_nobody());
        let send = |bytes: usize| {
            let data = Data {
                data: vec![7; bytes],
            };
            stream.receive(&any("containerd.types.transfer.Data", &data))
        };
        assert!(send(1).is_err(), "nobody has asked for input");
        let end = take_input(&table, "in").unwrap();
        assert!(take_input(&table, "in").is_err() && take_output(&table, "in").is_err());
        let asked = || {
            let message = stream.next_message()?;
            Some(WindowUpdate::decode(&*message.value).unwrap().update as usize)
        };
        assert_eq!((asked(), asked()), (Some(WINDOW), None));
        send(WINDOW).unwrap();
        assert_eq!(
            send(1).unwrap_err().code,
            crate::ttrpc::Code::ResourceExhausted
        );
        let mut buffer = Vec::with_capacity(WINDOW / 2);
        assert_eq!(end.0.read(&mut buffer), Ok(WINDOW / 2));
        assert_eq!((asked(), asked()), (Some(WINDOW / 2), None));
        buffer.clear();
        assert_eq!(end.0.read(&mut buffer), Ok(WINDOW / 2));
        buffer.clear();
        assert_eq!(end.0.read(&mut buffer), Err(Errno::AGAIN));
        stream.end_input();
        assert_eq!(end.0.read(&mut buffer), Ok(0));
        assert!(!stream.is_over());
        drop(end);
        assert!(stream.is_over());
    }

    #[test]
    fn closed_input_ends_when_its_client_goes() {
        let table = Table::from([("in".to_owned(), Stream::default())]);
        let end = take_input(&table, "in").unwrap();
        end.0.open(Reply::to_nobody());
        end.0.leave();
        let mut buffer = Vec::with_capacity(8);
        assert_eq!(
            end.0.read(&mut buffer),
            Err(Errno::AGAIN),
            "it may come back"
        );
        end.0.open(Reply::to_nobody());
        end.0.close_input();
        assert_eq!(end.0.read(&mut buffer), Err(Errno::AGAIN), "it is there");
        end.0.leave();
        assert_eq!(end.0.read(&mut buffer), Ok(0));
    }

    #[test]
    fn foreign_messages_and_names_are_refused() {
        let stream = Stream::default();
        let foreign = stream
            .receive(&any("google.protobuf.Empty", &()))
            .unwrap_err();
        assert!(foreign.message.contains("google.protobuf.Empty"));
        let error = take_output(&Table::new(), "gone").err().unwrap();
        assert!(error.to_string().contains("\"gone\" is not open"));
    }
}
