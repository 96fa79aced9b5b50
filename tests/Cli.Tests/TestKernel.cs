using System.Buffers.Binary;
using Iced.Intel;

namespace Bunraku.Cli.Tests;

/// <summary>Small multiboot kernels made of 32-bit code. Multiboot Specification 0.6.96, section 3.1 "OS image format", with addresses in the header.</summary>
internal static class TestKernel
{
    private const uint LoadAddress = 0x10_0000, HeaderLength = 32;

    /// <summary>A kernel file with the code at its entry point.</summary>
    public static byte[] Assemble(Action<Assembler> code)
    {
        var assembler = new Assembler(32);
        code(assembler);
        var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), LoadAddress + HeaderLength);
        byte[] body = stream.ToArray();
        byte[] file = new byte[HeaderLength + body.Length];
        const uint magic = 0x1BADB002, flags = 1 << 16;
        uint end = LoadAddress + (uint)file.Length;
        uint[] header = [magic, flags, unchecked(0 - magic - flags), LoadAddress, LoadAddress, end, end, LoadAddress + HeaderLength];
        for (int n = 0; n < header.Length; n++) BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(4 * n), header[n]);
        body.CopyTo(file, HeaderLength);
        return file;
    }
}

/// <summary>A file that is deleted with the test.</summary>
internal sealed class TemporaryFile : IDisposable
{
    public TemporaryFile(byte[]? content = null)
    {
        Path = System.IO.Path.Combine(System.IO.Path.GetTempPath(), "bunraku-test-" + Guid.NewGuid().ToString("n"));
        if (content is not null) File.WriteAllBytes(Path, content);
    }

    public string Path { get; }

    public void Dispose() => File.Delete(Path);
}
