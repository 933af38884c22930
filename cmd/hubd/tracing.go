package main

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/hubd-dev/hubd/internal/build"
	"github.com/hubd-dev/hubd/internal/otlp"
)

// tracing returns the tracer of the hub and what sends the last spans, nil and
// nothing to do unless one of the standard variables says where a collector is
// (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT). The other
// OTEL_* variables of the exporter, the sampler and the resource hold, too.
func tracing() (trace.Tracer, func(), error) {
	if !otlp.Enabled() {
		return nil, func() {}, nil
	}
	exporter, err := otlp.New()
	if err != nil {
		return nil, nil, err
	}
	about, err := resource.Merge(
		resource.NewSchemaless(attribute.String("service.name", "hubd"), attribute.String("service.version", build.Version())),
		resource.Environment(), // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	)
	if err != nil {
		return nil, nil, err
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	return provider.Tracer("github.com/hubd-dev/hubd"), func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = provider.Shutdown(ctx) // a collector that is gone is no reason to fail
	}, nil
}
