// Exports metrics of every kind through the real OpenTelemetry SDK, three times.
// Usage: node otel.cjs URL proto|json gzip|none
'use strict';
const { MeterProvider, PeriodicExportingMetricReader, AggregationType } = require('@opentelemetry/sdk-metrics');
const { resourceFromAttributes } = require('@opentelemetry/resources');
const [url, encoding, compression] = process.argv.slice(2);
const { OTLPMetricExporter } = require(encoding === 'json' ? '@opentelemetry/exporter-metrics-otlp-http' : '@opentelemetry/exporter-metrics-otlp-proto');

const exporter = new OTLPMetricExporter({ url, compression, headers: { 'X-Scope-OrgID': encoding } });
const results = [];
const send = exporter.export.bind(exporter);
exporter.export = (metrics, done) => send(metrics, (r) => { results.push(r); done(r); });
const provider = new MeterProvider({
  resource: resourceFromAttributes({ 'service.name': 'shop', 'service.namespace': 'eu', 'service.instance.id': 'js', 'host.name': 'node-7' }),
  readers: [new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3600_000 })],
  views: [{ instrumentName: 'exp.latency', aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM } }],
});
const meter = provider.getMeter('check', '1.0');
const orders = meter.createCounter('orders.placed', { description: 'Orders so far.' });
const depth = meter.createUpDownCounter('queue.depth');
const latency = meter.createHistogram('req.latency', { unit: 's', advice: { explicitBucketBoundaries: [0.1, 1, 10] } });
const exp = meter.createHistogram('exp.latency', { unit: 's' });
let round = 0;
meter.createObservableGauge('temperature', { unit: 'Cel' }).addCallback((r) => r.observe(20 + Math.min(round, 3) / 2, { room: 'é' }));

(async () => {
  for (round = 1; round <= 3; round++) {
    orders.add(3 * round, { 'http.route': '/cart' });
    depth.add(round === 2 ? -5 : 4);
    for (const v of [0.05, 0.5, 5, 50]) {
      latency.record(v * round, { 'http.route': '/cart' });
      exp.record(v * round);
    }
    await provider.forceFlush();
    await new Promise((r) => setTimeout(r, 20)); // so that the next export has another time
  }
  await provider.shutdown();
  const bad = results.filter((r) => r.code !== 0);
  if (bad.length > 0 || results.length < 3) {
    console.error('exports', results.length, 'failed', bad.map((r) => String(r.error)));
    process.exit(1);
  }
})();
