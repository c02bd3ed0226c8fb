"""Generated scenes: exact shape labels, texture labels, boxes and masks, without any download."""
