"""`python -m rwkv_edge` is `rwkv-edge`."""
import sys

from rwkv_edge.cli import main

sys.exit(main())
