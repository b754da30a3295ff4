"""The kernel: errors, ids, money, time, HTTP bodies, database writes. It imports no app and no gateway."""
