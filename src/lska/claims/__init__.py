"""The paper's relative statements, judged by the metric files of a scale, and the summaries that DVC compares."""
