CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render(node, jobs, licence):
    return "# EOF\n"
