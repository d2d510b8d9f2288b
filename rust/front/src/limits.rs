/// What a connection may cost. Sizes are in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest message that is taken.
    pub max_receive: usize,
    /// Calls at once, those that were cancelled and whose handler has not ended among them.
    pub calls: usize,
    /// Names and values of one request, with 32 bytes for each pair (RFC 9113, 6.5.2).
    pub header_list: usize,
    /// What a peer may send on one stream ahead of the handler.
    pub stream_window: u32,
    /// What it may send at once on all of them. It is granted anew as soon as bytes arrive.
    pub connection_window: u32,
    /// All messages together that have arrived in part.
    pub partial: usize,
    /// Answers that wait for the peer's windows; beyond it new calls are refused.
    pub queued: usize,
    /// Queued bytes of one stream at which its handler should wait.
    pub stream_queue: usize,
    /// Acknowledgements that were not taken by `output`.
    pub control: usize,
    /// Frames that bring nothing (priorities, resets, empty data) at once.
    pub flood: f64,
    /// How many of them are forgiven in a second.
    pub flood_per_second: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_receive: 16 << 20,
            calls: 16 << 10,
            header_list: 64 << 10,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            partial: 64 << 20,
            queued: 64 << 20,
            stream_queue: 64 << 10,
            control: 256 << 10,
            flood: 10_000.0,
            flood_per_second: 500.0,
        }
    }
}
