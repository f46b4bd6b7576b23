"""MRD streaming: a protocol core without I/O, sockets at its rim, a resident server and a node for Gadgetron chains."""
