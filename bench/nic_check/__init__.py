"""What every family of NICs is asked, silicon and driver together: ``netdump-bench check-nic``."""
