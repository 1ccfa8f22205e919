// Package e2e tests the built binary from outside: real processes on loopback ports, real Prometheus, a real S3 server,
// a Kafka broker in the test's own process; what goes in and comes out goes over HTTP. In goes the repository (the
// binary is built once), out come verdicts and one line of JSON with the figures of each run. It never imports a
// package of the product but the names in schema, and never kills a process that it did not start.
//
// A test that calls t.Parallel mostly waits, and shares no port, no folder and no broker with another; `make test` lets four of
// them run beside each other. The others run alone, before them: they measure speed, frames or memory, or are a whole
// cluster that must not fail a request. Unless a test asks for another, generations outlast it (unendingGeneration in main_test.go).
//
// The tests run only with SLUICE_E2E=1, as `make test` sets it, because they take minutes and two cores. With
// SLUICE_REQUIRE_ALL=1 whatever would be skipped fails. SLUICE_KILLS and SLUICE_SEED change the kill tests,
// SLUICE_NOISY_SERIES and SLUICE_TENANTS how much the tests of neighbours write; the
// directories of a failed test are kept and named in its output.
package e2e
