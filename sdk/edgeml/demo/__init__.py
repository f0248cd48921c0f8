"""`edgeml demo`: the whole way on this machine, with a real model; all of it real, all of it removed at the end."""
