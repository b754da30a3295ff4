"""All settings, from the environment (and a `.env` file beside manage.py). docs/settings.md explains them.

Nothing else in the code base reads the environment, except the gates of workspace skills. Outside development the
server refuses to start with insecure settings and names all problems at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import django_stubs_ext
import environ
from django.core.exceptions import ImproperlyConfigured

from clasper.core.crypto import derive_key
from clasper.core.model_ref import OFFLINE, PROVIDERS
from clasper.core.signing import read_signing_key

# Allows `ModelAdmin[Row]` and the like in class statements, as the type checker wants them.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env", overwrite=False)

# --- Where we are ---------------------------------------------------------------------------------------------------
CLASPER_ENV = env.str("CLASPER_ENV", "development")
PRODUCTION = CLASPER_ENV == "production"
DEBUG = env.bool("DEBUG", False)
_DEVELOPMENT_SECRET = "clasper-development-secret-do-not-use-in-production"  # noqa: S105  refused in production
SECRET_KEY = env.str("SECRET_KEY", _DEVELOPMENT_SECRET)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[] if PRODUCTION else ["*"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
CLASPER_PORT = env.int("CLASPER_PORT", 8081)

# --- Who may call ---------------------------------------------------------------------------------------------------
AGENT_DAEMON_API_KEY = env.str("AGENT_DAEMON_API_KEY", "")
AGENT_DAEMON_API_KEY_PREVIOUS = env.str("AGENT_DAEMON_API_KEY_PREVIOUS", "")
AGENT_JWT_SECRET = env.str("AGENT_JWT_SECRET", "" if PRODUCTION else f"{SECRET_KEY}/agent-jwt")
AGENT_JWT_ALGORITHM = env.str("AGENT_JWT_ALGORITHM", "HS256")
CLASPER_ENCRYPTION_KEY = env.str("CLASPER_ENCRYPTION_KEY", "")
CLASPER_AUDIT_SIGNING_KEY = env.str("CLASPER_AUDIT_SIGNING_KEY", "")

# --- The model ------------------------------------------------------------------------------------------------------
OPENAI_API_KEY = env.str("OPENAI_API_KEY", "")
OPENAI_BASE_URL = env.str("OPENAI_BASE_URL", "")
ANTHROPIC_API_KEY = env.str("ANTHROPIC_API_KEY", "")
ANTHROPIC_BASE_URL = env.str("ANTHROPIC_BASE_URL", "")
GEMINI_API_KEY = env.str("GEMINI_API_KEY", env.str("GOOGLE_API_KEY", ""))
GEMINI_BASE_URL = env.str("GEMINI_BASE_URL", "")
XAI_API_KEY = env.str("XAI_API_KEY", "")
XAI_BASE_URL = env.str("XAI_BASE_URL", "")
GROQ_API_KEY = env.str("GROQ_API_KEY", "")
GROQ_BASE_URL = env.str("GROQ_BASE_URL", "")
MISTRAL_API_KEY = env.str("MISTRAL_API_KEY", "")
MISTRAL_BASE_URL = env.str("MISTRAL_BASE_URL", "")
OPENROUTER_API_KEY = env.str("OPENROUTER_API_KEY", "")
OPENROUTER_BASE_URL = env.str("OPENROUTER_BASE_URL", "")
CLASPER_PROVIDER_HEADERS: dict[str, dict[str, str]] = env.json("CLASPER_PROVIDER_HEADERS", {})
CLASPER_PROVIDER_TIMEOUTS_MS: dict[str, int] = env.json("CLASPER_PROVIDER_TIMEOUTS_MS", {})


def _first_configured() -> str:
    """The first provider with a key or an address; without any, production waits for OpenAI's key."""
    for name in PROVIDERS:
        if globals()[f"{name.upper()}_API_KEY"] or globals()[f"{name.upper()}_BASE_URL"]:
            return name
    return "openai" if PRODUCTION else OFFLINE


LLM_PROVIDER = env.str("LLM_PROVIDER", _first_configured())
LLM_MODEL_DEFAULT = env.str("LLM_MODEL_DEFAULT", env.str("OPENAI_MODEL_DEFAULT", ""))
LLM_MODEL_CHEAP = env.str("LLM_MODEL_CHEAP", env.str("OPENAI_MODEL_CHEAP", ""))
LLM_MODEL_BEST = env.str("LLM_MODEL_BEST", env.str("OPENAI_MODEL_BEST", ""))
LLM_MODEL_FALLBACK = env.str("LLM_MODEL_FALLBACK", env.str("OPENAI_MODEL_FALLBACK", ""))
CLASPER_ROLE_MODELS: dict[str, str] = env.json("CLASPER_ROLE_MODELS", {})
CLASPER_MAX_OUTPUT_TOKENS = env.int("CLASPER_MAX_OUTPUT_TOKENS", 4096)
CLASPER_PRICE_OVERRIDES: dict[str, Any] = env.json("CLASPER_PRICE_OVERRIDES", {})
CLASPER_CONTEXT_WARNING_THRESHOLD = env.float("CLASPER_CONTEXT_WARNING_THRESHOLD", 75.0)
CLASPER_RETRY_ATTEMPTS = env.int("CLASPER_RETRY_ATTEMPTS", 3)
CLASPER_RETRY_DELAY_MS = env.int("CLASPER_RETRY_DELAY_MS", 1000)
CLASPER_RETRY_MAX_DELAY_MS = env.int("CLASPER_RETRY_MAX_DELAY_MS", 30_000)
CLASPER_RETRY_JITTER = env.float("CLASPER_RETRY_JITTER", 0.1)
CLASPER_PROVIDER_CONCURRENCY = env.int("CLASPER_PROVIDER_CONCURRENCY", 512)
CLASPER_TENANT_CONCURRENCY = env.int("CLASPER_TENANT_CONCURRENCY", 256)
CLASPER_CIRCUIT_FAILURES = env.int("CLASPER_CIRCUIT_FAILURES", 8)
CLASPER_CIRCUIT_COOLDOWN_MS = env.int("CLASPER_CIRCUIT_COOLDOWN_MS", 15_000)

# --- The run --------------------------------------------------------------------------------------------------------
CLASPER_RUN_TIMEOUT_MS = env.int("CLASPER_RUN_TIMEOUT_MS", 120_000)
CLASPER_MAX_BODY_BYTES = env.int("CLASPER_MAX_BODY_BYTES", 2 * 1024 * 1024)
CLASPER_DEFAULT_TASK = env.str("CLASPER_DEFAULT_TASK", "")
CLASPER_TOOL_MAX_ROUNDS = env.int("CLASPER_TOOL_MAX_ROUNDS", 8)
CLASPER_TOOL_PARALLEL = env.int("CLASPER_TOOL_PARALLEL", 4)
CLASPER_TOOL_TIMEOUT_MS = env.int("CLASPER_TOOL_TIMEOUT_MS", 30_000)
CLASPER_TOOL_RESULT_BYTES = env.int("CLASPER_TOOL_RESULT_BYTES", 64 * 1024)

# --- The workspace --------------------------------------------------------------------------------------------------
CLASPER_WORKSPACE = Path(env.str("CLASPER_WORKSPACE", "./workspace")).absolute()
CLASPER_SKILLS_MAX_CHARS = env.int("CLASPER_SKILLS_MAX_CHARS", 100_000)
CLASPER_DEFAULT_TIMEZONE = env.str("CLASPER_DEFAULT_TIMEZONE", "")
CLASPER_INCLUDE_TIME_CONTEXT = env.bool("CLASPER_INCLUDE_TIME_CONTEXT", True)

# --- The control plane and deliveries ---------------------------------------------------------------------------------
BACKEND_URL = env.str("BACKEND_URL", "").rstrip("/")
CLASPER_URL_ALLOWLIST = env.list("CLASPER_URL_ALLOWLIST", default=[])
CLASPER_OUTBOX_RETRY_MS = env.int("CLASPER_OUTBOX_RETRY_MS", 5_000)
CLASPER_SWEEP_SECONDS = env.float("CLASPER_SWEEP_SECONDS", 30.0)

# --- What is kept -----------------------------------------------------------------------------------------------------
CLASPER_REDACTION_STRATEGY = env.str("CLASPER_REDACTION_STRATEGY", "mask")
CLASPER_REDACTION_PATTERNS: dict[str, Any] = env.json("CLASPER_REDACTION_PATTERNS", {})
CLASPER_RETENTION_HOURS = env.float("CLASPER_RETENTION_HOURS", 24.0)

# --- Storage and background work --------------------------------------------------------------------------------------
REDIS_URL = env.str("REDIS_URL", "")
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", "")
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

CLASPER_DATABASE_POOL = env.int("CLASPER_DATABASE_POOL", 16)
_SQLITE_SETUP = (
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON;"
    # Every batch rewrites the same hot pages; copying them back to the file four times less often is as safe.
    "PRAGMA wal_autocheckpoint=4000;"
    # Pages that another process changed must be read again; from mapped memory that takes no system calls.
    "PRAGMA mmap_size=268435456;"
)
_db_path = env.str("CLASPER_DB_PATH", "./clasper.db")
_database: dict[str, Any] = dict(env.db_url("DATABASE_URL", default=f"sqlite:///{Path(_db_path).absolute()}"))
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": _SQLITE_SETUP}
else:
    # Without these a connection to a vanished host would be waited for up to a quarter of an hour.
    _patience = {"connect_timeout": 5, "tcp_user_timeout": 15_000}
    # Each request has a thread of its own, and a connection that it kept would stay open until garbage collection.
    _pool = {"min_size": 1, "max_size": CLASPER_DATABASE_POOL, "timeout": 10.0, "max_idle": 60.0}
    _database["OPTIONS"] = {**_patience, **_database.get("OPTIONS", {}), "pool": _pool}
    _database["CONN_HEALTH_CHECKS"] = True
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}
CHANNEL_LAYERS: dict[str, Any] = {
    "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

# --- Django ---------------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    # Twisted costs half a second and 30 MB, so daphne is loaded only by the command that needs it.
    *(["daphne"] if "runserver" in sys.argv else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "apps.schedule",
    "apps.audit",
    "apps.identity",
    "apps.governance",
    "apps.traces",
    "apps.workspaces",
    "apps.agents",
    "apps.control_plane",
    "clasper",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "clasper.core.static.whole_files",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "clasper.urls"
ASGI_APPLICATION = "clasper.asgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
# Development serves the files where they lie; production collects them (`manage.py collectstatic`).
STATIC_ROOT = BASE_DIR / "staticfiles" if PRODUCTION else None
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = not PRODUCTION
WHITENOISE_AUTOREFRESH = False
DATA_UPLOAD_MAX_MEMORY_SIZE = CLASPER_MAX_BODY_BYTES
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PRODUCTION
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if PRODUCTION else None

REST_FRAMEWORK: dict[str, Any] = {
    "EXCEPTION_HANDLER": "clasper.core.http.exception_handler",
    "DEFAULT_AUTHENTICATION_CLASSES": ["apps.identity.api.CredentialAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["apps.identity.api.ScopePermission"],
    "DEFAULT_RENDERER_CLASSES": ["clasper.core.http.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["clasper.core.http.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "clasper.openapi.structs.StructSchema",
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "clasper.core.http.OneFormat",
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": False,
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Clasper API",
    "DESCRIPTION": "The agent runtime: governed runs, traces, budgets and audit over HTTP.",
    "VERSION": "1.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVERS": [{"url": "/", "description": "The server that this page comes from."}],
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": ["clasper.openapi.add_runs"],
}

# --- Monitoring -------------------------------------------------------------------------------------------------------
PROMETHEUS_MULTIPROC_DIR = env.str("PROMETHEUS_MULTIPROC_DIR", "")
CLASPER_OTEL_ENDPOINT = env.str("CLASPER_OTEL_ENDPOINT", "")
CLASPER_OTEL_HEADERS: dict[str, str] = env.json("CLASPER_OTEL_HEADERS", {})

LOG_LEVEL = env.str("LOG_LEVEL", "INFO")
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "clasper.core.logs.JSONFormatter", "redactor": "clasper.core.redaction.redact"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "uvicorn.access": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        # Its lines on 4xx answers hold the query string, which callers may fill with anything.
        "django.request": {"level": "ERROR"},
    },
}

# --- What production refuses -----------------------------------------------------------------------------------------
MIN_SECRET_CHARS = 32


def production_problems() -> list[str]:
    """All reasons why these settings must not serve production traffic."""
    checks = [
        (DEBUG, "DEBUG is on"),
        (SECRET_KEY == _DEVELOPMENT_SECRET or len(SECRET_KEY) < MIN_SECRET_CHARS, "SECRET_KEY is missing or too short"),
        (not AGENT_DAEMON_API_KEY, "AGENT_DAEMON_API_KEY is missing"),
        (len(AGENT_JWT_SECRET) < MIN_SECRET_CHARS, "AGENT_JWT_SECRET is missing or shorter than 32 characters"),
        (not ALLOWED_HOSTS or "*" in ALLOWED_HOSTS, "ALLOWED_HOSTS is missing or allows every host"),
        (LLM_PROVIDER == OFFLINE, "LLM_PROVIDER is offline, which only pretends to be a model"),
        (not BACKEND_URL, "BACKEND_URL is missing: the embedded control plane is for development"),
    ]
    return [problem for failed, problem in checks if failed]


def _json_problems() -> list[str]:
    """What is wrong with the settings that are JSON objects of a certain shape."""
    problems = []
    for name, values, kind, wanted in (
        ("CLASPER_PROVIDER_HEADERS", CLASPER_PROVIDER_HEADERS, dict, "provider to an object of headers"),
        ("CLASPER_PROVIDER_TIMEOUTS_MS", CLASPER_PROVIDER_TIMEOUTS_MS, int, "provider to milliseconds"),
        ("CLASPER_ROLE_MODELS", CLASPER_ROLE_MODELS, str, "role to model"),
        ("CLASPER_OTEL_HEADERS", CLASPER_OTEL_HEADERS, str, "header to value"),
    ):
        if not isinstance(values, dict) or not all(isinstance(each, kind) for each in values.values()):
            problems.append(f"{name} must be a JSON object from {wanted}")
        elif kind is not str and (unknown := sorted(values.keys() - set(PROVIDERS))):
            problems.append(f"{name}: unknown provider {', '.join(unknown)}; there are {', '.join(PROVIDERS)}")
    return problems


if _problems := _json_problems():
    raise ImproperlyConfigured("; ".join(_problems))
if CLASPER_AUDIT_SIGNING_KEY:
    try:
        read_signing_key(CLASPER_AUDIT_SIGNING_KEY)
    except ValueError as _error:
        raise ImproperlyConfigured(f"CLASPER_AUDIT_SIGNING_KEY {_error}") from _error
if CLASPER_ENV not in ("development", "production", "test"):
    raise ImproperlyConfigured(f"CLASPER_ENV must be development, production or test, not {CLASPER_ENV!r}.")
if AGENT_JWT_ALGORITHM not in ("HS256", "HS384", "HS512"):
    raise ImproperlyConfigured("AGENT_JWT_ALGORITHM must be HS256, HS384 or HS512.")
if PRODUCTION and (_problems := production_problems()):
    raise ImproperlyConfigured(
        "Refusing to start in production:\n  - " + "\n  - ".join(_problems) + "\nSee docs/settings.md."
    )

SEALING_KEY = derive_key(CLASPER_ENCRYPTION_KEY or SECRET_KEY, "clasper/sealing")
"""Opens outbox rows and stored responses."""
REDACTION_KEY = derive_key(CLASPER_ENCRYPTION_KEY or SECRET_KEY, "clasper/redaction")
"""Keys the `hash` redaction strategy."""
