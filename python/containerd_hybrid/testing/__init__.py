"""The public test kit: real images and clients, a private daemon, checks that nothing is left behind."""
