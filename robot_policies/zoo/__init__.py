"""Small trained bundles, addressed as ``zoo:NAME`` (see robot_policies.bundle.resolve)."""
