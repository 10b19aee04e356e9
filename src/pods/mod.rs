//! Merged view of pods, restart, self-heal, image pins.
