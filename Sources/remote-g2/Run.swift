import ArgumentParser

struct Run: AsyncParsableCommand {
  static let configuration = CommandConfiguration(abstract: "x")
  func run() async throws {}
}
