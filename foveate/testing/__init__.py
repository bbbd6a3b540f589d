"""What tests share: golden data, stand-ins, small runs. Imported by tests alone."""
