"""The devices that `hfsched device` serves, one a file.  Source: virtio 1.3, section 5."""
