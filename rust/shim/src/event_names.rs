//! Topics of the events, and the names of their messages.

pub const CREATE: &str = "/tasks/create";
pub const START: &str = "/tasks/start";
pub const EXIT: &str = "/tasks/exit";
pub const DELETE: &str = "/tasks/delete";
pub const EXEC_ADDED: &str = "/tasks/exec-added";
pub const EXEC_STARTED: &str = "/tasks/exec-started";
pub const PAUSED: &str = "/tasks/paused";
pub const RESUMED: &str = "/tasks/resumed";
pub const OOM: &str = "/tasks/oom";
pub const CHECKPOINTED: &str = "/tasks/checkpointed";

pub const TASK_CREATE: &str = "containerd.events.TaskCreate";
pub const TASK_START: &str = "containerd.events.TaskStart";
pub const TASK_EXIT: &str = "containerd.events.TaskExit";
pub const TASK_DELETE: &str = "containerd.events.TaskDelete";
pub const TASK_EXEC_ADDED: &str = "containerd.events.TaskExecAdded";
pub const TASK_EXEC_STARTED: &str = "containerd.events.TaskExecStarted";
pub const TASK_PAUSED: &str = "containerd.events.TaskPaused";
pub const TASK_RESUMED: &str = "containerd.events.TaskResumed";
pub const TASK_OOM: &str = "containerd.events.TaskOOM";
pub const TASK_CHECKPOINTED: &str = "containerd.events.TaskCheckpointed";
