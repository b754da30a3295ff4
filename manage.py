#!/usr/bin/env python
"""Clasper's command line: `manage.py help` lists the commands, `manage.py COMMAND --help` explains one."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(str(error))  # the message says what to set; a traceback would only hide it
