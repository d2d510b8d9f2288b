//! The streaming service: clients open streams of bytes, which requests then name
//! ([`crate::stdio::stream`]).
//!
//! The first message of a call says which stream it is; the answer to that is an Empty, and then
//! bytes and windows go to and fro until the process's copy ends.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::Any;

use crate::proto::containerd::services::streaming::v1::StreamInit;
use crate::shim::Shim;
use crate::stdio::stream::{self, Stream};
use crate::ttrpc::Status;
use crate::ttrpc::server::{Reply, ReplyKey};

pub const SERVICE: &str = "containerd.services.streaming.v1.Streaming";
pub const METHOD: &str = "Stream";

/// Calls whose first message has not come yet.
pub type Openings = BTreeMap<ReplyKey, Reply>;

impl Shim {
    pub(super) fn open_call(&mut self, reply: Reply, payload: &[u8]) {
        let key = reply.key();
        self.openings.insert(key, reply);
        // A client may put its first message into the request.
        if !payload.is_empty() {
            self.on_stream(key, Some(payload), false);
        }
    }

    /// What came on a stream: a message, the client's end of it, or both.
    pub fn on_stream(&mut self, key: ReplyKey, message: Option<&[u8]>, ended: bool) {
        let mut result = Ok(());
        if let Some(message) = message {
            result = Any::decode(message)
                .map_err(|e| Status::invalid_argument(format!("stream: {e}")))
                .and_then(|message| self.stream_message(key, &message));
        }
        if let Err(status) = result {
            return self.fail_stream(key, status);
        }
        if ended && self.openings.contains_key(&key) {
            let status = Status::invalid_argument("stream: it ended before it said its id");
            return self.fail_stream(key, status);
        }
        if let Some(stream) = self.stream_of(key) {
            if ended {
                stream.end_input();
            }
            self.serve_stream(&stream);
        }
    }

    fn stream_message(&mut self, key: ReplyKey, message: &Any) -> Result<(), Status> {
        if !self.openings.contains_key(&key) {
            let Some(stream) = self.stream_of(key) else {
                return Ok(());
            };
            return stream.receive(message);
        }
        let name = message.type_url.rsplit('/').next().unwrap_or_default();
        if name != "containerd.services.streaming.v1.StreamInit" {
            let text = format!("stream: it begins with {name}, not with StreamInit");
            return Err(Status::invalid_argument(text));
        }
        let init = StreamInit::decode(&*message.value)
            .map_err(|e| Status::invalid_argument(format!("stream: {e}")))?;
        if init.id.is_empty() {
            return Err(Status::invalid_argument("stream: no id"));
        }
        if self.byte_streams.get(&init.id).is_some_and(Stream::is_open) {
            return Err(Status::already_exists(format!("stream {}", init.id)));
        }
        if let Some(reply) = self.openings.remove(&key) {
            let empty = stream::any("google.protobuf.Empty", &()).encode_to_vec();
            if self.server.send(&mut self.events, key, &empty) {
                self.byte_streams.entry(init.id).or_default().open(reply);
            }
        }
        Ok(())
    }

    fn fail_stream(&mut self, key: ReplyKey, status: Status) {
        let opening = self.openings.remove(&key);
        let reply = opening.or_else(|| self.stream_of(key)?.leave());
        if let Some(reply) = reply {
            self.refuse(reply, status);
        }
    }

    fn stream_of(&self, key: ReplyKey) -> Option<Stream> {
        let mut streams = self.byte_streams.values();
        streams.find(|stream| stream.key() == Some(key)).cloned()
    }

    /// Something about a stream has changed: its copy runs again, its messages go.
    fn serve_stream(&mut self, stream: &Stream) {
        self.flush_stream(stream);
        if let Some(pump) = stream.pump() {
            self.drive_pump(pump);
        }
    }

    /// Hands a stream's messages to its connection.
    pub fn flush_stream(&mut self, stream: &Stream) {
        let Some(key) = stream.key() else { return };
        while let Some(message) = stream.next_message() {
            let message = message.encode_to_vec();
            if !self.server.send(&mut self.events, key, &message) {
                stream.leave();
                return;
            }
        }
        stream.set_stuck(self.server.is_backed_up(key.0));
    }

    /// A connection has sent, or may have sent, what it held back.
    pub fn unstick_streams(&mut self, connection: u32) {
        if self.byte_streams.is_empty() || self.server.is_backed_up(connection) {
            return;
        }
        let here = |stream: &&Stream| {
            stream.is_stuck() && stream.key().is_some_and(|key| key.0 == connection)
        };
        let stuck: Vec<Stream> = self.byte_streams.values().filter(here).cloned().collect();
        for stream in stuck {
            self.serve_stream(&stream);
        }
    }

    /// Calls that are no more: their clients are gone, or their deadlines have passed.
    pub fn forget_streams(&mut self, gone: impl Fn(ReplyKey) -> bool) {
        self.openings.retain(|key, _| !gone(*key));
        let all: Vec<Stream> = self.byte_streams.values().cloned().collect();
        for stream in all {
            if stream.key().is_some_and(&gone) {
                stream.leave();
                // The end of input may be due.
                self.serve_stream(&stream);
            }
        }
    }

    /// Ends the streams that processes have let go, and forgets those that nobody has.
    pub fn sweep_streams(&mut self) {
        let over = |(id, stream): (&String, &Stream)| stream.is_over().then(|| id.clone());
        let over: Vec<String> = self.byte_streams.iter().filter_map(over).collect();
        for id in over {
            if let Some(stream) = self.byte_streams.remove(&id) {
                self.flush_stream(&stream);
                if let Some(reply) = stream.leave() {
                    self.server.finish(&mut self.events, reply);
                }
            }
        }
    }
}
