using System.Globalization;
using System.Text;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>Standard output and error whose failures are told as what they are, not as exceptions of whoever happens to print.</summary>
internal static class StandardStreams
{
    private const string Output = "standard output", Error = "standard error";
    private static readonly UTF8Encoding s_utf8 = new(encoderShouldEmitUTF8Identifier: false);

    /// <summary>
    /// Takes the place of the console's own writers. What cannot be written to standard output is a <see cref="CannotWriteException"/>; what cannot be
    /// written to standard error is given up, as there is nobody left to tell, and <paramref name="errorLost"/> is called.
    /// </summary>
    public static void Guard(Action<CannotWriteException> errorLost)
    {
        Console.SetOut(new LateWriter(Console.OpenStandardOutput, e => throw new CannotWriteException(Output, HostError.Reason(e), e)));
        Console.SetError(new LateWriter(Console.OpenStandardError, e => errorLost(new CannotWriteException(Error, HostError.Reason(e), e))));
    }

    /// <summary>Standard output failed with this error number while the guest printed to it.</summary>
    public static CannotWriteException CannotWriteOutput(int errno) => new(Output, HostError.Reason(errno));

    /// <summary>Opened when there is something to write: most runs of a command print nothing of their own.</summary>
    private sealed class LateWriter(Func<Stream> open, Action<Exception> failed) : TextWriter(CultureInfo.InvariantCulture)
    {
        private StreamWriter? _writer;

        private StreamWriter Writer => _writer ??= new StreamWriter(new GuardedStream(open(), failed), s_utf8, bufferSize: 256) { AutoFlush = true };

        public override Encoding Encoding => s_utf8;

        public override void Write(char value) => Writer.Write(value);

        public override void Write(char[] buffer, int index, int count) => Writer.Write(buffer, index, count);

        public override void Write(ReadOnlySpan<char> buffer) => Writer.Write(buffer);

        public override void Write(string? value) => Writer.Write(value);

        public override void WriteLine(string? value) => Writer.WriteLine(value);

        public override void Flush() => _writer?.Flush();
    }

    private sealed class GuardedStream(Stream stream, Action<Exception> failed) : Stream
    {
        public override bool CanRead => false;
        public override bool CanSeek => false;
        public override bool CanWrite => true;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            try
            {
                stream.Write(buffer);
            }
            // A descriptor that is closed is "access denied" for the runtime.
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                failed(e);
            }
        }

        public override void Flush() => stream.Flush();

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
