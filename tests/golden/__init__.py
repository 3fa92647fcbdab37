"""What is measured, frozen: see `test_golden.py`."""
