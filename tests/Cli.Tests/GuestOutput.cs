using System.Text;

namespace Bunraku.Cli.Tests;

/// <summary>Takes a guest's output, and tells when there is enough of it.</summary>
internal sealed class GuestOutput : MemoryStream
{
    private readonly Lock _lock = new();

    public string Text
    {
        get
        {
            lock (_lock) return Encoding.UTF8.GetString(ToArray());
        }
    }

    public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        lock (_lock) Write(buffer.Span);
        return default;
    }

    public async Task Await(Func<string, bool> condition, CancellationToken cancel)
    {
        while (!condition(Text)) await Task.Delay(5, cancel);
    }

    public Task Await(string text, CancellationToken cancel) => Await(t => t.Contains(text, StringComparison.Ordinal), cancel);

    public async Task Until(string text, Task end)
    {
        while (!Text.Contains(text, StringComparison.Ordinal) && !end.IsCompleted) await Task.Delay(10);
        Assert.Contains(text, Text, StringComparison.Ordinal);
    }
}
