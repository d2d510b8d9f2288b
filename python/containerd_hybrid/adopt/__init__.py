"""Taking over what a containerd has: its blobs, images, leases and namespaces."""
