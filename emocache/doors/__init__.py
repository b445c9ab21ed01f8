"""The doors: features that other tools wrote come in, features of a store go out. `docs/doors.md` teaches how."""
