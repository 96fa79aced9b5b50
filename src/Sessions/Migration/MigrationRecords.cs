using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Bunraku.Engines;

namespace Bunraku.Sessions.Migration;

/// <summary>The first message: 8 bytes of magic, a version of 32 bits, the claim's token in 32 characters, and the description of the machine.</summary>
internal static class MigrationHello
{
    private const uint Version = 1;
    private const int TokenLength = 32;

    private static ReadOnlySpan<byte> Magic => "BUNRAKUM"u8;

    public static byte[] Write(MigrationClaim claim, MachineDescription description)
    {
        byte[] version = new byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(version, Version);
        return [.. Magic, .. version, .. Encoding.ASCII.GetBytes(claim.Token), .. description.ToJson()];
    }

    /// <exception cref="StateFormatException">It is none.</exception>
    public static (MigrationClaim Claim, MachineDescription Description) Read(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < Magic.Length + sizeof(uint) + TokenLength || !bytes.StartsWith(Magic))
            throw new StateFormatException("the other end is no 'bunraku migrate'");
        bytes = bytes[Magic.Length..];
        uint version = BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        if (version != Version)
        {
            throw new StateFormatException(string.Create(CultureInfo.InvariantCulture,
                $"the other end moves VMs by version {version} of the protocol, this one by version {Version}"));
        }
        string token = Encoding.ASCII.GetString(bytes.Slice(sizeof(uint), TokenLength));
        if (!MigrationClaim.IsToken(token)) throw new StateFormatException("the other end has no claim");
        return (new MigrationClaim(token), MachineDescription.Parse(bytes[(sizeof(uint) + TokenLength)..]));
    }
}

/// <summary>Everything but memory, as JSON.</summary>
internal static class MigrationState
{
    private sealed record Part(string Id, string Format, int Version, byte[] Data);

    private sealed record Whole(DateTime PausedAt, Part[] Parts);

    public static byte[] Write(DateTime pausedAt, IReadOnlyList<SavedState> parts) => RecordWriter.Write(
        new Whole(pausedAt, [.. parts.Select(p => new Part(p.Id, p.Format, p.Version, p.Data.ToArray()))]), typeof(Whole));

    /// <exception cref="StateFormatException">It is none.</exception>
    public static (DateTime PausedAt, IReadOnlyList<SavedState> Parts) Read(ReadOnlySpan<byte> json)
    {
        try
        {
            var state = (Whole)RecordReader.Read(json, typeof(Whole));
            return (state.PausedAt.ToUniversalTime(), [.. state.Parts.Select(p => new SavedState(p.Id, p.Format, p.Version, p.Data))]);
        }
        catch (JsonException e)
        {
            throw new StateFormatException($"the state of the machine is damaged: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }
}
