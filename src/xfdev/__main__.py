"""``python -m xfdev``."""

from xfdev.start import main

raise SystemExit(main())
