"""Where readings come from. A source names its metrics and reads them; it never judges them."""
