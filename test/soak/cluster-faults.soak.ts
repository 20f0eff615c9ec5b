/** All scenarios of test/pacemaker/cluster.test.ts, also those in which fencing fails and replicas were left behind. */
process.env.UNDERSTUDY_CLUSTER_FAULTS = "1";
await import("../pacemaker/cluster.test.ts");
