"""From a logging call to a shard: episodes, tables, and the writers that drain their buffers."""
