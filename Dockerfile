# The image of all processes: server, Celery worker, migrations. Settings come from the environment.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/app/.venv/bin:$PATH
WORKDIR /app

RUN pip install --no-cache-dir uv==0.13.9
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-cache

COPY . .

# Static files of /admin and /api/docs. The values only satisfy the checks of production and are not kept in the image.
RUN CLASPER_ENV=production SECRET_KEY=collectstatic-needs-a-secret-of-32-characters \
    AGENT_JWT_SECRET=collectstatic-needs-a-secret-of-32-characters AGENT_DAEMON_API_KEY=unused \
    ALLOWED_HOSTS=localhost BACKEND_URL=http://localhost \
    python manage.py collectstatic --no-input --verbosity 0

RUN useradd --create-home clasper
USER clasper

EXPOSE 8081
CMD ["python", "manage.py", "serve", "--host", "0.0.0.0"]
