"""What all pose detectors and the conditions `openpose`, `hands` and `face` share."""
