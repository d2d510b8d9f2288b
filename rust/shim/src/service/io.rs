//! CloseIO and ResizePty.

use crate::process::Phase;
use crate::proto::containerd::task::v3::{CloseIoRequest, ResizePtyRequest};
use crate::shim::Shim;
use crate::ttrpc::Status;
use crate::ttrpc::server::Reply;

impl Shim {
    /// The process gets the end of input after all that was written.
    pub(super) fn close_io(&mut self, request: CloseIoRequest, reply: Reply) {
        let result = self.find(&request.id, &request.exec_id).and_then(|id| {
            let p = self.process(id)?;
            if let Some(stdin) = &mut p.streams.stdin {
                stdin.close();
            }
            // The end of a FIFO without a writer is an event only for who reads it again.
            if let Some(pump) = p.streams.input {
                self.drive_pump(pump);
            }
            Ok(())
        });
        self.conclude(reply, result);
    }

    pub(super) fn resize_pty(&mut self, request: ResizePtyRequest, reply: Reply) {
        let result = self.resize(&request);
        self.conclude(reply, result);
    }

    fn resize(&mut self, request: &ResizePtyRequest) -> Result<(), Status> {
        let id = self.find(&request.id, &request.exec_id)?;
        let p = self.process(id)?;
        if !p.is_init() && p.phase() == Phase::Stopped {
            return Err(Status::unknown("cannot resize a stopped container"));
        }
        let Some(console) = &p.streams.console else {
            return Ok(());
        };
        let size = rustix::termios::Winsize {
            ws_row: u16::try_from(request.height).unwrap_or(u16::MAX),
            ws_col: u16::try_from(request.width).unwrap_or(u16::MAX),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(console, size)
            .map_err(|e| Status::unknown(format!("resize: {e}")))
    }
}
