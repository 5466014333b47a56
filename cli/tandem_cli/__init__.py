"""`tandem`: the command line. One module per command; each plane keeps what its command computes."""
