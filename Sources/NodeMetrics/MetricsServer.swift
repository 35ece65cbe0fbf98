internal import NIOCore
internal import NIOHTTP1
internal import NIOPosix

/// Answers `/metrics` and `/healthz` over HTTP/1.1: what a scraper and a load balancer ask of a node.
package final class MetricsServer: Sendable {
  /// Of one connection that asks nothing.
  private static let idleMax: TimeAmount = .seconds(60)

  private let group: MultiThreadedEventLoopGroup
  private let channel: any Channel

  package struct Failure: Error, CustomStringConvertible {
    package let description: String
  }

  /// Listens from now on. Blocks its thread until it does.
  ///
  /// - Parameters:
  ///   - metrics: The text of `/metrics`, made anew for each question.
  ///   - hanging: What hangs; then `/healthz` says so, with status 503.
  package init(
    host: String, port: Int, metrics: @escaping @Sendable () -> String,
    hanging: @escaping @Sendable () -> [String]
  ) throws(Failure) {
    group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    do {
      channel = try ServerBootstrap(group: group)
        .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
        .childChannelInitializer { channel in
          channel.pipeline.configureHTTPServerPipeline(withErrorHandling: true).flatMapThrowing {
            try channel.pipeline.syncOperations.addHandlers([
              IdleStateHandler(allTimeout: Self.idleMax), MetricsAnswer(metrics, hanging),
            ])
          }
        }
        .bind(host: host, port: port).wait()
    } catch {
      try? group.syncShutdownGracefully()
      throw Failure(description: "cannot listen on \(host):\(port) for metrics: \(error)")
    }
  }

  package func stop() {
    try? channel.close().wait()
    try? group.syncShutdownGracefully()
  }
}

/// One connection: every question is answered when its last part is here.
private final class MetricsAnswer: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  private let metrics: @Sendable () -> String
  private let hanging: @Sendable () -> [String]
  private var head: HTTPRequestHead?

  init(_ metrics: @escaping @Sendable () -> String, _ hanging: @escaping @Sendable () -> [String]) {
    self.metrics = metrics
    self.hanging = hanging
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head): self.head = head
    case .body: break
    case .end:
      guard let head else { return }
      self.head = nil
      answer(head, context)
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }

  private func answer(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
    let path = head.uri.prefix { $0 != "?" }
    var (status, type, text) = (HTTPResponseStatus.ok, "text/plain; charset=utf-8", "")
    switch (head.method, path) {
    case (.GET, "/metrics"):
      type = "text/plain; version=0.0.4; charset=utf-8"
      text = metrics()
    case (.GET, "/healthz"):
      let hanging = hanging()
      status = hanging.isEmpty ? .ok : .serviceUnavailable
      text = hanging.isEmpty ? "ok\n" : "hanging: \(hanging.joined(separator: ", "))\n"
    case (.GET, _):
      status = .notFound
      text = "here are /metrics and /healthz\n"
    default:
      status = .methodNotAllowed
      text = "only GET\n"
    }
    let body = context.channel.allocator.buffer(string: text)
    var response = HTTPResponseHead(version: head.version, status: status)
    response.headers.add(name: "content-type", value: type)
    response.headers.add(name: "content-length", value: "\(body.readableBytes)")
    context.write(wrapOutboundOut(.head(response)), promise: nil)
    context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
    let isKept = head.isKeepAlive
    let channel = context.channel
    context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in
      if !isKept { channel.close(promise: nil) }
    }
  }
}
