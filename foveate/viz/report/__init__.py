"""The HTML reports, and the charts in them."""
