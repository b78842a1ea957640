"""Other ways to store the same data, each written as its documentation advises for speed."""
