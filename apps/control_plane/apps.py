from django.apps import AppConfig


class ControlPlaneConfig(AppConfig):
    name = "apps.control_plane"
    label = "control_plane"
    verbose_name = "Embedded control plane"
