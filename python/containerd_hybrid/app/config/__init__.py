"""The daemon's configuration: containerd's TOML files, versions 2 to 4, by containerd's rules."""
