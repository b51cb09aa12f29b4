"""``python -m xfdev``."""

from xfdev.cli import main

raise SystemExit(main())
