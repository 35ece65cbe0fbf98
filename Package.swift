// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .treatAllWarnings(as: .error),
]

/// A Swift module of this package: `on` names other modules of it.
func module(
  _ name: String, on modules: [Target.Dependency] = [], exclude: [String] = [],
  resources: [Resource]? = nil
) -> Target {
  .target(
    name: name, dependencies: modules, exclude: exclude, resources: resources,
    swiftSettings: strict)
}

/// A test target; `on` names what it uses.
func tests(
  _ name: String, on modules: [Target.Dependency] = [], exclude: [String] = []
) -> Target {
  .testTarget(name: name, dependencies: modules, exclude: exclude, swiftSettings: strict)
}

let package = Package(
  name: "remote-g2",
  products: [
    .library(
      name: "RemoteG2",
      targets: [
        "RemoteG2Core", "KVLayout", "KVTransfer", "KVConnector", "KVWorker", "RemoteG2Engine",
      ]),
    .library(name: "RemoteG2Library", targets: ["RemoteG2Library"]),
    // libremote_g2.so, with remote_g2.h: what engines of other languages load.
    .library(name: "remote_g2", type: .dynamic, targets: ["RemoteG2CABI"]),
    .library(name: "KVTransferTesting", targets: ["KVTransferTesting"]),
    .executable(name: "remote-g2", targets: ["remote-g2"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-crypto.git", from: "4.5.2"),
    .package(url: "https://github.com/grpc/grpc-swift-2.git", from: "2.4.3"),
    .package(url: "https://github.com/grpc/grpc-swift-nio-transport.git", from: "2.9.2"),
    .package(url: "https://github.com/grpc/grpc-swift-protobuf.git", from: "2.4.1"),
    .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-extras.git", from: "1.35.2"),
    .package(url: "https://github.com/apple/swift-nio-ssl.git", from: "2.37.6"),
    .package(url: "https://github.com/swift-server/async-http-client.git", from: "1.37.0"),
    .package(url: "https://github.com/apple/swift-protobuf.git", from: "1.39.0", traits: []),
  ],
  targets: [
    // Pure: the standard library only.
    module("KVLayout"),
    module("RemoteG2Core"),

    // Thin shells over the system and over C.
    .target(name: "CLinuxShims"),
    .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
    .target(name: "CNIXL"),
    // OpenSSL's headers; the library itself is loaded at run time.
    .target(name: "CTLS"),
    module("OSThreads", on: ["CLinuxShims", "RemoteG2Core"]),
    module("ContentDigest", on: ["CXXHash", "RemoteG2Core"]),
    module("LocalStore", on: ["CLinuxShims", "ContentDigest", "OSThreads", "RemoteG2Core"]),
    module("NIXL", on: ["CNIXL", "ContentDigest", "OSThreads", "RemoteG2Core"]),

    .target(name: "CMPI"),
    module("Collectives", on: ["CMPI", "OSThreads", "RemoteG2Core"]),
    .target(name: "CKernels"),
    module("Linear", on: ["CKernels", "OSThreads", "RemoteG2Core"]),
    module("LlamaModel", on: ["Collectives", "KVLayout", "Linear"]),
    module("KVTransfer", on: ["ContentDigest", "LocalStore", "OSThreads", "RemoteG2Core"]),
    // The scheduler half decides and moves nothing; the worker half moves and decides nothing.
    module("KVConnector", on: ["RemoteG2Core"]),
    module(
      "KVWorker", on: ["KVConnector", "KVTransfer", "LocalStore", "OSThreads", "RemoteG2Core"]),
    module("EngineControl", on: ["KVConnector", "LocalStore", "OSThreads", "RemoteG2Core"]),
    // What an engine of somebody else's links: no model, no MPI, no gRPC, no NIXL.
    module(
      "RemoteG2Library",
      on: [
        "ContentDigest", "EngineControl", "KVConnector", "KVTransfer", "KVWorker", "LocalStore",
        "OSThreads", "RemoteG2Core",
      ]),
    .target(name: "CRemoteG2"),
    // With the standard library inside, so that an engine's process needs no Swift.
    .target(
      name: "RemoteG2CABI", dependencies: ["CRemoteG2", "RemoteG2Core", "RemoteG2Library"],
      swiftSettings: strict, linkerSettings: [.unsafeFlags(["-static-stdlib"])]),
    // The service of one host: no model, no MPI, no gRPC, no NIXL.
    module(
      "RemoteG2Node",
      on: ["CLinuxShims", "CTLS", "ContentDigest", "LocalStore", "OSThreads", "RemoteG2Core"]),
    // Keeps a node's memory while the processes that serve from it come and go.
    module("NodeKeeper", on: ["LocalStore", "OSThreads", "Processes", "RemoteG2Core"]),
    // A node with engines beside it, for tests and benchmarks.
    module(
      "NodeTesting",
      on: [
        "LocalStore", "OSThreads", "Processes", "RemoteG2Core", "RemoteG2Library", "RemoteG2Node",
      ]),
    // Slows down, breaks and looks into what ships. Only tools and tests link it.
    module("TransferRig", on: ["KVConnector", "KVTransfer", "OSThreads", "RemoteG2Core"]),
    module("Processes", on: ["CLinuxShims", "OSThreads", "RemoteG2Core"]),
    module("NIXLTransfer", on: ["KVTransfer", "NIXL", "Processes", "RemoteG2Core"]),

    module(
      "RemoteG2Engine",
      on: ["Collectives", "ContentDigest", "KVConnector", "KVLayout", "RemoteG2Core"]),
    // The shipped code in a seeded world.
    module(
      "Simulation",
      on: [
        "Collectives", "ContentDigest", "KVConnector", "KVLayout", "KVTransfer", "KVWorker",
        "LocalStore", "RemoteG2Core", "RemoteG2Engine", "TransferRig",
      ]),
    // What any bytes at all are given to. Only tests and scripts/fuzz link it.
    module("FuzzTargets", on: ["RemoteG2Core"]),
    // A production's prompts, dealt to nodes that decide as those that ship.
    module("TraceReplay", on: ["RemoteG2Core"]),
    module(
      "RemoteG2EngineTesting",
      on: [
        "Collectives", "ContentDigest", "KVConnector", "KVLayout", "KVTransfer", "KVWorker",
        "Linear", "LlamaModel", "LlamaModelTesting", "LocalStore", "OSThreads", "RemoteG2Core",
        "RemoteG2Engine", "RemoteG2Node", "Simulation", "TransferRig",
      ]),
    .target(
      name: "RemoteG2Control",
      dependencies: [
        "EngineControl", "RemoteG2Core",
        .product(name: "GRPCCore", package: "grpc-swift-2"),
        .product(name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOCertificateReloading", package: "swift-nio-extras"),
        .product(name: "GRPCProtobuf", package: "grpc-swift-protobuf"),
        .product(name: "SwiftProtobuf", package: "swift-protobuf"),
      ],
      swiftSettings: strict),
    .target(
      name: "NodeMetrics",
      dependencies: [
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
      ],
      swiftSettings: strict),
    // Members that register themselves in etcd.
    .target(
      name: "NodeRegistry",
      dependencies: [
        "OSThreads", "RemoteG2Core",
        .product(name: "AsyncHTTPClient", package: "async-http-client"),
        .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOHTTP1", package: "swift-nio"),
        .product(name: "NIOSSL", package: "swift-nio-ssl"),
      ],
      swiftSettings: strict),
    // What of a node serves peers that read its pools themselves, over NIXL.
    module(
      "PoolAgents",
      on: [
        "LocalStore", "NIXL", "OSThreads", "Processes", "RemoteG2Control", "RemoteG2Core",
        "RemoteG2Node",
      ]),
    module(
      "RankGroups",
      on: [
        "CLinuxShims", "Collectives", "OSThreads", "Processes", "RemoteG2Core", "RemoteG2Engine",
      ]
    ),
    .target(
      name: "RemoteG2Runtime",
      dependencies: [
        "CLinuxShims", "Collectives", "ContentDigest", "EngineControl", "KVConnector", "KVLayout",
        "KVTransfer", "KVWorker", "Linear", "LlamaModel", "LocalStore", "NIXL", "NIXLTransfer",
        "OSThreads", "Processes", "RankGroups", "RemoteG2Control", "RemoteG2Core", "RemoteG2Engine",
        .product(name: "Crypto", package: "swift-crypto"),
      ],
      swiftSettings: strict),
    // A worker that is driven by lines of JSON: what the tools and the tests talk to.
    module(
      "WorkerConsole",
      on: [
        "Collectives", "EngineControl", "KVConnector", "KVTransfer", "NIXL", "OSThreads",
        "Processes", "RankGroups", "RemoteG2Core", "RemoteG2Engine", "RemoteG2Runtime",
        "TransferRig",
      ]),
    .executableTarget(
      name: "remote-g2",
      dependencies: [
        "Collectives", "KVConnector", "Linear", "LlamaModel", "LocalStore", "NIXL", "NIXLTransfer",
        "NodeKeeper", "NodeMetrics", "NodeRegistry", "OSThreads", "Processes", "RankGroups",
        "RemoteG2Core",
        "RemoteG2Node", "PoolAgents", "RemoteG2Control", "RemoteG2Runtime", "Simulation",
        "TraceReplay",
        "TransferRig", "WorkerConsole",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      resources: [.copy("Resources/text.txt")],
      swiftSettings: strict),
    module("LlamaModelTesting", on: ["Linear", "LlamaModel"]),
    module("KVTransferTesting", on: ["KVTransfer", "OSThreads", "RemoteG2Core"]),
    // Runs what touches NIXL for the tests, in a process of its own.
    .executableTarget(
      name: "remote-g2-testhost",
      dependencies: [
        "Collectives", "KVConnector", "KVTransfer", "KVTransferTesting", "LocalStore", "NIXL",
        "NIXLTransfer", "OSThreads", "PoolAgents", "Processes", "RankGroups", "RemoteG2Core",
        "RemoteG2Engine", "RemoteG2EngineTesting", "RemoteG2Runtime", "TransferRig",
      ],
      swiftSettings: strict),

    // Benchmarks need nothing that the package does not need already, and share its build.
    .target(name: "CAllocations", path: "Benchmarks/CAllocations"),
    .executableTarget(
      name: "remote-g2-bench",
      dependencies: [
        "CAllocations", "Collectives", "ContentDigest", "KVConnector", "KVLayout",
        "KVTransfer", "KVTransferTesting", "KVWorker", "Linear", "LlamaModel", "LocalStore", "NIXL",
        "NIXLTransfer", "NodeRegistry", "NodeTesting", "OSThreads", "Processes", "RankGroups",
        "RemoteG2Control", "RemoteG2Core", "RemoteG2Engine", "RemoteG2Library", "PoolAgents",
        "RemoteG2Node", "RemoteG2Runtime",
      ],
      path: "Benchmarks/remote-g2-bench", swiftSettings: strict),

    tests("TidyTests"),
    tests("RemoteG2CoreTests", on: ["FuzzTargets", "RemoteG2Core"], exclude: ["Snapshots"]),
    tests("ContentDigestTests", on: ["ContentDigest", "RemoteG2Core"]),
    tests("OSThreadsTests", on: ["OSThreads", "RemoteG2Core"]),
    tests(
      "LocalStoreTests",
      on: ["ContentDigest", "LocalStore", "OSThreads", "RemoteG2Core", "Simulation"]),
    tests(
      "KVTransferTests",
      on: [
        "ContentDigest", "KVTransfer", "KVTransferTesting", "LocalStore", "OSThreads",
        "RemoteG2Core", "Simulation", "TransferRig",
      ]),
    tests(
      "KVConnectorTests",
      on: ["KVConnector", "RemoteG2Core", "Simulation"]),
    tests(
      "KVWorkerTests",
      on: ["KVConnector", "KVTransfer", "KVWorker", "RemoteG2Core", "Simulation", "TransferRig"]),
    tests(
      "RemoteG2EngineTests",
      on: [
        "Collectives", "ContentDigest", "KVConnector", "KVLayout", "KVTransfer", "LocalStore",
        "OSThreads", "RemoteG2Core", "RemoteG2Engine", "RemoteG2EngineTesting", "Simulation",
        "TransferRig",
      ]),
    tests(
      "RemoteG2NodeTests",
      on: [
        "ContentDigest", "LocalStore", "NodeKeeper", "NodeTesting", "OSThreads", "RemoteG2Core",
        "RemoteG2Library", "RemoteG2Node", "Simulation",
      ]),
    tests("SimulationTests", on: ["RemoteG2Core", "Simulation"]),
    tests("TraceReplayTests", on: ["RemoteG2Core", "TraceReplay"]),

    // What follows needs the model, NIXL, gRPC or processes of its own.
    tests(
      "LlamaModelTests",
      on: [
        "Collectives", "ContentDigest", "KVLayout", "Linear", "LlamaModel", "LlamaModelTesting",
        "OSThreads", "RemoteG2Core",
      ],
      exclude: ["Fixtures"]),
    tests(
      "NIXLTests",
      on: [
        "Collectives", "NIXL", "NIXLTransfer", "OSThreads", "Processes", "RankGroups",
        "RemoteG2Core", "RemoteG2Runtime", "remote-g2-testhost",
      ]),
    tests(
      "EngineControlTests",
      on: [
        "EngineControl", "KVConnector", "LocalStore", "OSThreads", "Processes", "RemoteG2Control",
        "NodeTesting", "PoolAgents", "RemoteG2Core", "RemoteG2Node", "RemoteG2Runtime", "remote-g2",
      ]),
    tests(
      "RemoteG2LibraryTests",
      on: [
        "KVConnector", "KVTransfer", "KVWorker", "LocalStore", "NodeTesting", "OSThreads",
        "RemoteG2Core", "RemoteG2Library", "RemoteG2Node",
      ]),
    tests(
      "PoolAgentsTests",
      on: [
        "LocalStore", "NodeTesting", "OSThreads", "PoolAgents", "Processes", "RemoteG2Control",
        "RemoteG2Core", "RemoteG2Node", "remote-g2",
        .product(name: "GRPCCore", package: "grpc-swift-2"),
        .product(name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport"),
      ]),
    tests(
      "NodeRegistryTests",
      on: ["NodeRegistry", "NodeTesting", "OSThreads", "Processes", "RemoteG2Core", "RemoteG2Node"]),
    tests(
      "WorkerConsoleTests",
      on: ["OSThreads", "Processes", "RemoteG2Core", "RemoteG2Runtime", "WorkerConsole"]),
    tests(
      "CommandLineTests",
      on: [
        "NodeTesting", "OSThreads", "Processes", "RemoteG2Core", "RemoteG2Node", "RemoteG2Runtime",
        "WorkerConsole", "remote-g2",
      ]),
  ],
  cLanguageStandard: .c11
)

// The suites that sanitizers and mutants run need none of the heavy dependencies, nor their builds.
if Context.environment["REMOTE_G2_SUITES"] == "pure" {
  let heavy: Set<String> = [
    "RemoteG2Control", "NodeMetrics", "NodeRegistry", "NodeRegistryTests", "PoolAgents",
    "RemoteG2Runtime", "RankGroups",
    "WorkerConsole",
    "NIXLTransfer", "NIXL", "CNIXL", "remote-g2", "remote-g2-testhost", "remote-g2-bench",
    "CAllocations", "NIXLTests",
    "LlamaModelTests", "EngineControlTests", "PoolAgentsTests", "WorkerConsoleTests",
    "CommandLineTests",
  ]
  package.dependencies = []
  package.products = []
  package.targets.removeAll { heavy.contains($0.name) }
  // Where the rest is compiled without optimisation (`make unit`), arithmetic still is: nobody steps through it.
  for target in package.targets
  where ["Linear", "LlamaModel", "ContentDigest"].contains(target.name) {
    target.swiftSettings?.append(.unsafeFlags(["-O"], .when(configuration: .debug)))
  }
}
