"""What the daemon can be watched by: figures of calls, tasks and the process, as Prometheus reads them."""
