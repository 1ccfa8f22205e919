// Package kafkatest starts Apache Kafka brokers on loopback for tests. In goes what the cluster shall be like, out come
// the addresses of its brokers and the means to kill, stop and restart each. Nothing that it starts outlives the test.
// It never stands in for Kafka: the brokers are the released ones, from the jars that `make tools` fetches.
package kafkatest
