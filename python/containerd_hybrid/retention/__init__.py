"""What stays of a layer's blob once it is unpacked."""
