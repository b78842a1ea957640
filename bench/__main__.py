"""Run benchmarks, as ``python -m bench``."""

from bench.suite import main

if __name__ == "__main__":
    raise SystemExit(main())
