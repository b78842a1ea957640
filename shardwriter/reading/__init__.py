"""Episodes, finished or live, one by one and across an experiment."""
