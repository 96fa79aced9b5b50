using System.Text.Json;
using System.Text.Json.Serialization;

namespace Bunraku.Sessions.Control;

/// <summary>What a client asks for: one line of JSON. docs/control.md.</summary>
/// <param name="Do">What: status, monitor, power, size, quit, wait, migrate or fork.</param>
/// <param name="Line">monitor: the command.</param>
/// <param name="Width">monitor: characters of a line of the answer.</param>
/// <param name="To">migrate: where the VM goes.</param>
/// <param name="Columns">size: of the terminal that is connected with the guest's.</param>
/// <param name="Rows">The other one.</param>
public sealed record ControlRequest(string Do, string? Line = null, int? Width = null, string? To = null, int? Columns = null, int? Rows = null);

/// <summary>What the VM answers: one line of JSON.</summary>
/// <param name="Ok">It was done.</param>
/// <param name="Error">It was not: why, in one line.</param>
/// <param name="Text">monitor, migrate, fork: for a person.</param>
/// <param name="Status">status: the VM.</param>
/// <param name="Path">fork: what copies are restored from, as long as the connection lasts.</param>
public sealed record ControlAnswer(bool Ok, string? Error = null, string? Text = null, ControlStatus? Status = null, string? Path = null);

/// <summary>One VM at a glance.</summary>
/// <param name="Pid">Of the process that runs it.</param>
/// <param name="Engine">Name of its engine; empty before there is one.</param>
/// <param name="Memory">Bytes of RAM.</param>
/// <param name="Cpus">Number of vCPUs.</param>
/// <param name="State">starting, running, stopped or ended.</param>
/// <param name="Uptime">Seconds since the process took the name.</param>
public sealed record ControlStatus(string Name, int Pid, string Engine, ulong Memory, int Cpus, string State, double Uptime);

/// <summary>How requests and answers become lines.</summary>
internal static class ControlProtocol
{
    /// <summary>Bytes of a request and of an answer, with their line ends.</summary>
    public const int LongestRequest = 1 << 16, LongestAnswer = 1 << 24;

    private static readonly JsonSerializerOptions s_options = new(JsonSerializerDefaults.Strict)
    {
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        MaxDepth = 4,
        TypeInfoResolver = ControlJson.Default,
    };

    public static byte[] Line<T>(T value) => [.. JsonSerializer.SerializeToUtf8Bytes(value, s_options.GetTypeInfo(typeof(T))), (byte)'\n'];

    /// <exception cref="JsonException">It is not one.</exception>
    public static T Parse<T>(ReadOnlySpan<byte> line) =>
        (T?)JsonSerializer.Deserialize(line, s_options.GetTypeInfo(typeof(T))) ?? throw new JsonException("it is null");
}

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Strict)]
[JsonSerializable(typeof(ControlRequest))]
[JsonSerializable(typeof(ControlAnswer))]
internal sealed partial class ControlJson : JsonSerializerContext;

/// <summary>Takes lines out of a stream.</summary>
/// <param name="longest">Bytes of a line.</param>
internal sealed class LineReader(Stream stream, int longest)
{
    private byte[] _buffer = new byte[4096];
    private int _start, _end;

    /// <summary>The next line without its end, good until the next call; null: there is none, the last one having no end included.</summary>
    /// <exception cref="InvalidDataException">A line is too long.</exception>
    public async ValueTask<ReadOnlyMemory<byte>?> ReadAsync(CancellationToken cancel)
    {
        for (int looked = 0; ;)
        {
            int at = _buffer.AsSpan(_start + looked, _end - _start - looked).IndexOf((byte)'\n');
            if (at >= 0)
            {
                ReadOnlyMemory<byte> line = _buffer.AsMemory(_start, looked + at);
                _start += looked + at + 1;
                return line;
            }
            looked = _end - _start;
            if (looked >= longest) throw new InvalidDataException($"a line has more than {longest} bytes");
            if (_start > 0)
            {
                _buffer.AsSpan(_start, looked).CopyTo(_buffer);
                (_start, _end) = (0, looked);
            }
            if (_end == _buffer.Length) Array.Resize(ref _buffer, Math.Min(2 * _buffer.Length, longest + 1));
            int read = await stream.ReadAsync(_buffer.AsMemory(_end), cancel).ConfigureAwait(false);
            if (read == 0) return null;
            _end += read;
        }
    }
}
