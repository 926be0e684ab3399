"""Playing a case: the stage it is set on, and the story from boot to the end of the dump."""
