"""The format: buffers, shards and masters, as bytes and as HDF5, whoever records or reads."""
