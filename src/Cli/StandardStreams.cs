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
        Console.SetOut(Writer(Console.OpenStandardOutput(), e => throw new CannotWriteException(Output, HostError.Reason(e), e)));
        Console.SetError(Writer(Console.OpenStandardError(), e => errorLost(new CannotWriteException(Error, HostError.Reason(e), e))));
    }

    /// <summary>Standard output failed with this error number while the guest printed to it.</summary>
    public static CannotWriteException CannotWriteOutput(int errno) => new(Output, HostError.Reason(errno));

    private static StreamWriter Writer(Stream stream, Action<Exception> failed) =>
        new(new GuardedStream(stream, failed), s_utf8, bufferSize: 256) { AutoFlush = true };

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
