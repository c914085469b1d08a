"""What files hold: counts, widths, encodings, and what is wrong with them."""
